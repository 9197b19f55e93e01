"""A plan in words: the lines of a dry run."""

from collections.abc import Mapping
from typing import Any

from ..runtime.address import store_path
from ..runtime.text import counted, size_text, time_text
from ..store.contents import SplitInfo
from ..store.durable import free_bytes
from ..store.layout import LayerShape, layer_index
from .config import ExtractConfig
from .loaded import wants_published
from .plan import Plan
from .views import FAST


def describe(plan: Plan, config: ExtractConfig, images_per_second: float) -> list[str]:
    """Return the lines of a dry run.

    Args:
        plan: plan of the extraction.
        config: settings of the extraction.
        images_per_second: measured speed of the backbone alone.
    """
    manifest, sizes, out = plan.manifest, plan.layer_bytes(), store_path(config.out)
    n_passes = sum(info.n_images * info.views for info in manifest.splits.values())
    lines = [
        ("model", f"{manifest.recipe.model}, {counted(manifest.depth, 'layer')}, {manifest.recipe.precision}"),
        *_weights_lines(config),
        ("pixels", _transform_text(manifest.recipe.transform)),
        ("data", manifest.dataset),
        *_split_lines(manifest.splits),
        *([("unreadable", "not checked: a dry run decodes no image")] if config.skip_bad_images else []),
        ("tokens", _tokens_text(manifest.shape(max(map(layer_index, manifest.layers))))),
        ("dtype", manifest.recipe.dtype),
        *_size_lines(sizes),
        ("total", size_text(sum(sizes.values()))),
        ("to write", size_text(sum(sizes.values()) if config.overwrite else plan.missing_bytes(out))),
        *([] if isinstance(out, str) else [("free", size_text(free_bytes(out)))]),
        ("time", f"{time_text(n_passes / images_per_second)} at {images_per_second:.0f} images/s, the backbone alone"),
    ]
    return [f"{name:<10} {value}" for name, value in lines]


def _weights_lines(config: ExtractConfig) -> list[tuple[str, str]]:
    """Return a line about published weights, which a dry run does not download."""
    if not wants_published(config):
        return []
    return [("weights", "published; a dry run does not download them and draws random ones of the same shapes")]


def _split_lines(splits: Mapping[str, SplitInfo]) -> list[tuple[str, str]]:
    """Return one line per split, then one per split of several views."""
    lines = []
    for name, info in splits.items():
        images, blocks = counted(info.n_images, "image"), counted(info.n_blocks, "block")
        classes = counted(len(info.classes), "class", "classes")
        lines.append((f"  {name}", f"{images} in {blocks}, {classes}"))
    return lines + [("views", _views_text(name, info)) for name, info in splits.items() if info.augmentation]


def _tokens_text(shape: LayerShape) -> str:
    height, width = shape.grid
    return f"{shape.n_patches} patch ({height} × {width}) + {shape.n_prefix} prefix, {shape.dim} wide"


def _transform_text(transform: Mapping[str, Any]) -> str:
    height, width = transform["input_size"]
    how = "resized if sizes differ" if transform["crop_mode"] == "none" else f"{transform['crop_mode']} crop"
    part = f" {transform['crop_pct']:g}" if transform["crop_pct"] else ""
    turned = ", turned upright" if transform.get("upright") else ""
    fast = ", decoded fast" if transform.get("decode") == FAST else ""
    mean, std = (" ".join(f"{value:.3g}" for value in transform[name]) for name in ("mean", "std"))
    return f"{height} × {width}, {how}{part}, {transform['interpolation']}, mean {mean}, std {std}{turned}{fast}"


def _views_text(split: str, info: SplitInfo) -> str:
    how = info.augmentation or {}
    scale, ratio = (f"{smallest:.3g} to {largest:.3g}" for smallest, largest in (how["scale"], how["ratio"]))
    return (
        f"{info.views} of {split}: the above, then crops of {scale} of the area, width / height {ratio}, flipped or not"
    )


def _size_lines(sizes: Mapping[str, int]) -> list[tuple[str, str]]:
    if len(set(sizes.values())) == 1:
        return [("per layer", f"{size_text(next(iter(sizes.values())))}, {counted(len(sizes), 'layer')}")]
    return [(name, size_text(size)) for name, size in sizes.items()]
