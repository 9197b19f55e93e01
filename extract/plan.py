"""The plan of an extraction: layers, blocks and views, decided before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import gettempdir

from .. import __version__
from ..errors import InputError, NoSpaceError, StoreError
from ..runtime.address import is_address
from ..runtime.text import size_text
from ..store.array_spec import array_spec, array_specs
from ..store.contents import Recipe, SplitInfo, limit_json
from ..store.durable import free_bytes
from ..store.formats import store_files
from ..store.journal import finished_files
from ..store.layout import EMBEDDING, MEAN, PATCH, POOLED, PREFIX, LayerShape, block_rows, layer_name, parse_layers
from ..store.manifest import Manifest
from ..store.object_lock import lock_of
from ..store.quantize import array_type, stored_kinds
from .backbones import Backbone
from .config import ExtractConfig
from .datasets import ImageList, ImageSource
from .rows import SplitRows
from .views import Augmentation

MIB = 2**20
TRAINING = "train"
"""Prefix of the names of splits that may have more than one view."""


@dataclass(frozen=True)
class ChosenImages:
    """The images of one split.

    Attributes:
        rows: in store order.
        n_listed: number of images under the first limit, before any were skipped. It sets the block size, so neither
            skipping nor a larger limit moves a block.
        listed: the source's whole list.
        skipped: ids of unreadable images that were left out.
        limits: the limits that the store had, then the one that it gets; None stands for all images.
    """

    rows: SplitRows
    n_listed: int
    listed: ImageList
    skipped: list[str]
    limits: list[int | None]


@dataclass(frozen=True)
class Plan:
    """All decisions before the first image is decoded.

    Attributes:
        manifest: manifest of the store to write.
        rows: rows of each split.
    """

    manifest: Manifest
    rows: Mapping[str, SplitRows]

    def with_images(self, images: Mapping[str, ChosenImages]) -> "Plan":
        """Return the plan without the unreadable images; blocks and all else stay."""
        splits = {
            split: replace(info, n_images=len(images[split].rows), skipped=images[split].skipped)
            for split, info in self.manifest.splits.items()
        }
        return Plan(replace(self.manifest, splits=splits), {split: chosen.rows for split, chosen in images.items()})

    def layer_bytes(self) -> dict[str, int]:
        """Return the bytes of each layer over all splits and views."""
        totals = dict.fromkeys(self.manifest.layers, 0)
        for split, info in self.manifest.splits.items():
            for layer, kinds in info.layers.items():
                specs = [array_spec(self.manifest, split, layer, kind) for kind in kinds]
                totals[layer] += sum(spec.n_views * spec.n_blocks * spec.block_bytes for spec in specs)
        return totals

    def missing_bytes(self, out: str | Path, *, overwrite: bool = False) -> int:
        """Return the bytes by which a store at `out` will grow; `overwrite` frees its present bytes."""
        files = store_files(out)
        finished = finished_files(files.folder)
        if overwrite:
            return sum(self.layer_bytes().values()) - sum(record.size for record in finished.values())
        specs = list(array_specs(self.manifest))
        return sum(spec.block_bytes for spec in specs for name in files.block_names(spec) if name not in finished)


def wanted_layers(config: ExtractConfig, backbone: Backbone) -> list[int]:
    """Return the layers that a config names, in order.

    Raises:
        InputError: the text has another form, or the backbone lacks a layer.
    """
    depth = len(backbone.shapes)
    return parse_layers(config.layers, range(depth), depth, "backbone")


def make_plan(
    config: ExtractConfig,
    backbone: Backbone,
    source: ImageSource,
    images: Mapping[str, ChosenImages],
    precision: str,
) -> Plan:
    """Decide blocks and layers, and describe the store.

    Args:
        config: settings of the extraction.
        backbone: the loaded model.
        source: the data.
        images: images of each wanted split.
        precision: precision of the backbone's matrix products.

    Raises:
        InputError: the backbone lacks one of the layers, or has none of the wanted tokens.
    """
    layers = {layer_name(layer): backbone.shapes[layer] for layer in wanted_layers(config, backbone)}
    kinds = {name: _kinds_of(shape, config.tokens) for name, shape in layers.items()}
    if config.tokens and not any(set(of_layer) - set(POOLED) for of_layer in kinds.values()):
        raise InputError(f"{backbone.name!r} has no {','.join(config.tokens)} tokens; give --tokens patch")
    stored = {name: stored_kinds(of_layer, config.dtype) for name, of_layer in kinds.items()}
    itemsize = array_type(PATCH, config.dtype).stored.itemsize
    image_bytes = max(shape.n_patches * shape.dim for shape in backbone.shapes) * itemsize
    manifest = Manifest(
        recipe=_recipe(config, backbone, precision),
        dataset=source.name,
        depth=len(backbone.shapes),
        layers=layers,
        final_norm=backbone.final_norm(),
        splits={
            split: _split_info(split, chosen, source.classes, config, stored, image_bytes)
            for split, chosen in images.items()
        },
        versions={"tokenprobe": __version__}
        | {name: version(name) for name in ("torch", "timm", "numpy", *backbone.packages)},
    )
    return Plan(manifest, {split: chosen.rows for split, chosen in images.items()})


def _recipe(config: ExtractConfig, backbone: Backbone, precision: str) -> Recipe:
    """Return the settings that determine every token of the store."""
    shuffled = config.row_order == "shuffled"
    return Recipe(
        model=backbone.name,
        model_args=dict(backbone.arguments),
        weights=backbone.weights_hash(),
        transform=backbone.transform.to_json(),
        precision=precision,
        dtype=config.dtype,
        row_order={"kind": "shuffled", "seed": config.seed} if shuffled else {"kind": "dataset"},
        prefix_names=list(backbone.prefix_names),
    )


def _split_info(
    split: str,
    chosen: ChosenImages,
    classes: Sequence[str],
    config: ExtractConfig,
    layers: Mapping[str, list[str]],
    image_bytes: int,
) -> SplitInfo:
    """Describe one split.

    Args:
        split: its name.
        chosen: its images.
        classes: class names by label.
        config: settings of the extraction.
        layers: arrays to store for each layer.
        image_bytes: bytes of one image's patch tokens in the backbone's widest layer, wanted or not. Blocks then stay
            the same when layers are added to the store.
    """
    n_views = views_of(split, config)
    return SplitInfo(
        n_images=len(chosen.rows),
        block_rows=block_rows(chosen.n_listed, image_bytes, config.block_mib * MIB),
        source=chosen.listed.content,
        limit=limit_json(chosen.limits, config.seed),
        skipped=chosen.skipped,
        classes=list(classes),
        layers=dict(layers),
        views=n_views,
        augmentation=augmentation_of(config).to_json() if n_views > 1 else None,
    )


def _kinds_of(shape: LayerShape, tokens: Sequence[str]) -> list[str]:
    """List the arrays to store for a layer: always the pooled ones, and tokens if they are wanted and exist."""
    there = {MEAN: True, EMBEDDING: shape.embedding > 0, PATCH: PATCH in tokens, PREFIX: PREFIX in tokens}
    return [kind for kind, kept in there.items() if kept and (kind != PREFIX or shape.n_prefix)]


def views_of(split: str, config: ExtractConfig) -> int:
    """Return the number of views of a split: only training splits get random crops."""
    return config.views if split.startswith(TRAINING) else 1


def augmentation_of(config: ExtractConfig) -> Augmentation:
    """Return the settings of views from 1 on."""
    (smallest, largest), (narrowest, widest) = config.view_scale, config.view_ratio
    return Augmentation((smallest, largest), (narrowest, widest), config.seed)


def check_extends(plan: Plan, out: str | Path) -> None:
    """Refuse to extend a store that was made differently or is being written, before any image is decoded.

    Images that cannot be read are not known yet, so the store's own may be left out of the plan or not.

    Raises:
        LockedError: another process is writing to it.
        StoreError: it was made differently; names each field that differs.
    """
    files = store_files(out)
    if not files.exists():
        return
    with lock_of(files.folder):
        stored = files.read_manifest()
    _check_merges(plan, stored)


def refusal(plan: Plan, out: str | Path, *, knows_weights: bool) -> str | None:
    """Return why a store there cannot be extended in this way, or None.

    Args:
        plan: plan of the extraction.
        out: path of the store.
        knows_weights: whether the plan knows the weights; if not, they are taken to be those of the store.
    """
    files = store_files(out)
    if not files.exists():
        return None
    stored = files.read_manifest()
    if not knows_weights:
        recipe = replace(plan.manifest.recipe, weights=stored.recipe.weights)
        plan = replace(plan, manifest=replace(plan.manifest, recipe=recipe))
    try:
        _check_merges(plan, stored)
    except StoreError as error:
        return str(error)
    return None


def _check_merges(plan: Plan, stored: Manifest) -> None:
    splits = {
        name: replace(info, skipped=stored.splits[name].skipped, n_images=stored.splits[name].n_images)
        for name, info in plan.manifest.splits.items()
        if name in stored.splits
    }
    stored.merged(replace(plan.manifest, splits=plan.manifest.splits | splits))


def check_space(plan: Plan, out: str | Path, *, overwrite: bool) -> None:
    """Raise NoSpaceError if the disk has no room for the missing bytes, or the temporary folder for growing blocks."""
    if is_address(out):
        _check_spool(plan, str(out))
        return
    needed, free = plan.missing_bytes(out, overwrite=overwrite), free_bytes(Path(out))
    if needed > free:
        raise NoSpaceError(
            f"the store needs {size_text(needed)} more and the disk of {str(out)!r} has {size_text(free)} free; "
            "extract fewer --layers or splits (--split), set a --limit, or write to another disk"
        )


def _check_spool(plan: Plan, out: str) -> None:
    """Raise NoSpaceError if the temporary folder has no room for one block of every array, which are uploaded whole."""
    needed = max(
        sum(spec.block_bytes for spec in array_specs(plan.manifest) if spec.name.startswith(f"{split}/"))
        for split in plan.manifest.splits
    )
    spool = Path(gettempdir())
    if needed > free_bytes(spool):
        raise NoSpaceError(
            f"blocks on their way to {out!r} take {size_text(needed)} in the temporary folder {str(spool)!r}, "
            f"which has {size_text(free_bytes(spool))} free; set TMPDIR to a larger disk, or give a smaller --block-mib"
        )
