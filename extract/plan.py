"""What an extraction will write, before any of it is written."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError, NoSpaceError
from ..runtime.text import size_text, time_text
from ..store.array_spec import array_spec, array_specs
from ..store.formats import store_files
from ..store.journal import finished_files
from ..store.layout import EMBEDDING, MEAN, PATCH, POOLED, PREFIX, LayerShape, block_rows, layer_index, layer_name
from ..store.manifest import Manifest, Recipe, SplitInfo
from ..store.quantize import array_type, stored_kinds
from .backbones import Backbone
from .config import ExtractConfig
from .datasets import ImageSource
from .rows import Rows
from .views import Augmentation

MIB = 2**20
TRAINING = "train"
"""How the names of splits begin that get more than one view."""


@dataclass(frozen=True)
class ChosenImages:
    """The images of one split.

    Attributes:
        rows: in store order.
        n_listed: images before any were skipped; blocks are sized by it, so that skipping does not move them.
        content: hash of the source's whole list.
        skipped: ids of unreadable images that were left out.
    """

    rows: Rows
    n_listed: int
    content: str
    skipped: list[str]


@dataclass(frozen=True)
class Plan:
    """Everything decided before the first image is decoded.

    Attributes:
        manifest: what the store will declare.
        rows: of each split.
    """

    manifest: Manifest
    rows: Mapping[str, Rows]

    def layer_bytes(self) -> dict[str, int]:
        """Return the bytes of each layer over all splits and views."""
        totals = dict.fromkeys(self.manifest.layers, 0)
        for split, info in self.manifest.splits.items():
            for layer, kinds in info.layers.items():
                specs = [array_spec(self.manifest, split, layer, kind) for kind in kinds]
                totals[layer] += sum(spec.n_views * spec.n_blocks * spec.block_bytes for spec in specs)
        return totals

    def missing_bytes(self, out: Path, *, overwrite: bool = False) -> int:
        """Return by how many bytes a store at `out` will grow; `overwrite` frees all it has now."""
        files = store_files(out)
        finished = finished_files(files.folder)
        if overwrite:
            return sum(self.layer_bytes().values()) - sum(record.size for record in finished.values())
        specs = list(array_specs(self.manifest))
        return sum(spec.block_bytes for spec in specs for name in files.block_names(spec) if name not in finished)


def parse_layers(spec: str, depth: int) -> list[int]:
    """Read "all", "last4" or "0,5,-1" into sorted layer indices.

    Raises:
        InputError: not of that form, or a layer that the backbone does not have.
    """
    if spec == "all":
        return list(range(depth))
    if spec.startswith("last") and spec[4:].isdigit():
        n_last = int(spec[4:])
        wanted = [layer - depth for layer in range(depth - n_last, depth)] if n_last <= depth else [-n_last]
    else:
        try:
            wanted = [int(part) for part in spec.split(",")]
        except ValueError:
            raise InputError(f"layers {spec!r}: expected all, lastN, or indices such as 0,5,-1") from None
    bad = [layer for layer in wanted if not -depth <= layer < depth]
    if bad or not wanted:
        raise InputError(f"layers {spec!r}: the backbone has layers 0 to {depth - 1}; got {bad or 'none'}")
    return sorted({layer % depth for layer in wanted})


def make_plan(
    config: ExtractConfig,
    backbone: Backbone,
    source: ImageSource,
    images: Mapping[str, ChosenImages],
    precision: str,
) -> Plan:
    """Decide blocks and layers, and describe the store.

    Args:
        config: what was asked for.
        backbone: the loaded model.
        source: the data.
        images: of each split wanted.
        precision: what the backbone computes in.
    """
    layers = {layer_name(layer): backbone.shapes[layer] for layer in parse_layers(config.layers, len(backbone.shapes))}
    kinds = {name: _kinds_of(shape, config.tokens) for name, shape in layers.items()}
    stored = {name: stored_kinds(of_layer, config.dtype) for name, of_layer in kinds.items()}
    if config.tokens and not any(set(of_layer) - set(POOLED) for of_layer in kinds.values()):
        raise InputError(f"tokens {','.join(config.tokens)} asked for, and {backbone.name!r} has none; ask for patch")
    itemsize = array_type(PATCH, config.dtype).stored.itemsize
    image_bytes = max(shape.n_patches * shape.dim for shape in backbone.shapes) * itemsize
    limit = None if config.limit is None else {"n": config.limit, "seed": config.seed}
    shuffled = config.row_order == "shuffled"
    manifest = Manifest(
        recipe=Recipe(
            model=backbone.name,
            model_args=dict(backbone.arguments),
            weights=backbone.weights_hash(),
            transform=backbone.transform.to_json(),
            precision=precision,
            dtype=config.dtype,
            row_order={"kind": "shuffled", "seed": config.seed} if shuffled else {"kind": "dataset"},
            prefix_names=list(backbone.prefix_names),
        ),
        dataset=source.name,
        depth=len(backbone.shapes),
        layers=layers,
        final_norm=backbone.final_norm(),
        splits={
            name: SplitInfo(
                n_images=len(chosen.rows),
                block_rows=block_rows(chosen.n_listed, image_bytes, config.block_mib * MIB),
                source=chosen.content,
                limit=limit,
                skipped=chosen.skipped,
                classes=list(source.classes),
                layers=stored,
                views=views_of(name, config),
                augmentation=augmentation_of(config).to_json() if views_of(name, config) > 1 else None,
            )
            for name, chosen in images.items()
        },
        versions={"tokenprobe": __version__}
        | {name: version(name) for name in ("torch", "timm", "numpy", *backbone.packages)},
    )
    return Plan(manifest, {name: chosen.rows for name, chosen in images.items()})


def _kinds_of(shape: LayerShape, tokens: Sequence[str]) -> list[str]:
    """List the arrays kept of a layer: what is pooled always, tokens if they are wanted and there are any."""
    there = {MEAN: True, EMBEDDING: shape.embedding > 0, PATCH: PATCH in tokens, PREFIX: PREFIX in tokens}
    return [kind for kind, kept in there.items() if kept and (kind != PREFIX or shape.n_prefix)]


def views_of(split: str, config: ExtractConfig) -> int:
    """Return how many views a split gets: only training sees random crops."""
    return config.views if split.startswith(TRAINING) else 1


def augmentation_of(config: ExtractConfig) -> Augmentation:
    """Return how views from 1 on are drawn."""
    (smallest, largest), (narrowest, widest) = config.view_scale, config.view_ratio
    return Augmentation((smallest, largest), (narrowest, widest), config.seed)


def check_space(plan: Plan, out: Path, *, overwrite: bool) -> None:
    """Raise NoSpaceError if the disk has no room for what is missing."""
    needed, free = plan.missing_bytes(out, overwrite=overwrite), free_bytes(out)
    if needed > free:
        raise NoSpaceError(
            f"the store needs {size_text(needed)} more and {str(out)!r} has {size_text(free)} free; "
            "extract fewer --layers or --split, or a --limit, or write to another disk"
        )


def free_bytes(path: Path) -> int:
    """Return the free space on the disk that holds, or would hold, a path."""
    path = path.absolute()
    return shutil.disk_usage(next(p for p in (path, *path.parents) if os.path.exists(p))).free


def describe(plan: Plan, out: Path, images_per_second: float, *, overwrite: bool) -> list[str]:
    """Return what a dry run prints, a line each.

    Args:
        plan: of the extraction.
        out: path of the store.
        images_per_second: that the backbone alone was seen to do.
        overwrite: whether what is there will be made again.
    """
    manifest, sizes = plan.manifest, plan.layer_bytes()
    n_passes = sum(info.n_images * info.views for info in manifest.splits.values())
    shape = manifest.shape(max(map(layer_index, manifest.layers)))
    lines: list[tuple[str, Any]] = [
        ("model", f"{manifest.recipe.model}, {manifest.depth} layers, {manifest.recipe.precision}"),
        ("pixels", _transform_text(manifest.recipe.transform)),
        ("data", manifest.dataset),
        *(
            (f"  {name}", f"{info.n_images:,} images in {info.n_blocks} blocks, {len(info.classes)} classes")
            for name, info in manifest.splits.items()
        ),
        *(("views", _views_text(name, info)) for name, info in manifest.splits.items() if info.augmentation),
        (
            "tokens",
            f"{shape.n_patches} patch ({shape.grid[0]} × {shape.grid[1]}) + {shape.n_prefix} prefix, {shape.dim} wide",
        ),
        ("dtype", manifest.recipe.dtype),
        *_size_lines(sizes),
        ("in all", size_text(sum(sizes.values()))),
        ("to write", size_text(sum(sizes.values()) if overwrite else plan.missing_bytes(out))),
        ("free", size_text(free_bytes(out))),
        ("time", f"{time_text(n_passes / images_per_second)} at {images_per_second:.0f} images/s, the backbone alone"),
    ]
    return [f"{name:<10} {value}" for name, value in lines]


def _transform_text(transform: Mapping[str, Any]) -> str:
    height, width = transform["input_size"]
    how = "resized if sizes differ" if transform["crop_mode"] == "none" else f"{transform['crop_mode']} crop"
    part = f" {transform['crop_pct']:g}" if transform["crop_pct"] else ""
    mean, std = (" ".join(f"{value:.3g}" for value in transform[name]) for name in ("mean", "std"))
    return f"{height} × {width}, {how}{part}, {transform['interpolation']}, mean {mean}, std {std}"


def _views_text(split: str, info: SplitInfo) -> str:
    how = info.augmentation or {}
    scale, ratio = (f"{smallest:.3g} to {largest:.3g}" for smallest, largest in (how["scale"], how["ratio"]))
    return (
        f"{info.views} of {split}: the above, then crops of {scale} of the area, width / height {ratio}, flipped or not"
    )


def _size_lines(sizes: Mapping[str, int]) -> list[tuple[str, str]]:
    if len(set(sizes.values())) == 1:
        return [("per layer", f"{size_text(next(iter(sizes.values())))}, {len(sizes)} layers")]
    return [(name, size_text(size)) for name, size in sizes.items()]
