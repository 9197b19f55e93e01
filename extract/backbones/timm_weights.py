"""Loading of weights from any training code into a timm model, with timm's conversion for the architecture."""

import sys
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from timm.models import Eva, VisionTransformer
from torch import Tensor, nn

from ...errors import InputError
from . import torchvision_vit
from .names import reason
from .weights.files import Checkpoint
from .weights.loading import Converted, LoadReport, Reading, load_weights
from .weights.position_tables import Grid, PositionTable, fit_tables, flat_tables, in_words
from .weights.sets import Weights

BILINEAR: dict[str, Any] = {"interpolation": "bilinear", "antialias": False}
CONVERSIONS: dict[str, dict[str, Any]] = {
    "deit3": {"adapt_layer_scale": True},
    "flexivit": BILINEAR,
    "vit_base_patch16_radio_v3": BILINEAR | {"align_corners": True},
    "vit_huge_patch16_radio_v3": BILINEAR | {"align_corners": True},
    "vit_large_patch16_radio": BILINEAR | {"align_corners": False},
    "vit_huge_patch16_radio_v4": BILINEAR | {"align_corners": False},
    "vit_giant_patch16_radio": BILINEAR | {"align_corners": False},
    "vit_so400m_patch16_radio": BILINEAR | {"align_corners": False},
}
"""Arguments that timm passes to its own conversion, by the beginning of an architecture's name."""
INTERPOLATION = ("interpolation", "antialias", "align_corners")
"""Arguments that apply to position tables too."""
RADIO_TABLE = "radio_model.model.patch_generator.pos_embed"
"""Position table of RADIO's own files: a square larger than images need, from which a part is cut."""


def load_timm_weights(module: nn.Module, checkpoint: Checkpoint, reading: Reading) -> LoadReport:
    """Load a checkpoint into a timm model, with timm's conversion for the architecture.

    Raises:
        InputError: the checkpoint does not fit.
    """

    def convert(weights: Weights) -> Converted:
        return convert_to_timm(weights, module, checkpoint.path, reading.grid)

    return load_weights(module, checkpoint, reading, convert)


def convert_to_timm(weights: Weights, module: nn.Module, path: Path, grid: Grid | None) -> Converted:
    """Apply timm's conversion for an architecture, and resample position tables to the module's grid.

    Args:
        weights: weights, by the names of any training code.
        module: a timm model.
        path: file of the weights.
        grid: (height, width) in patches of its position tables; None to guess it from their size.

    Raises:
        InputError: the weights are of another architecture.
    """
    weights = torchvision_vit.renamed(weights)
    name = "patch_embed.proj.weight"
    own, given = module.state_dict().get(name), weights.get(name)
    if own is not None and given is not None and own.ndim == given.ndim and own.shape != given.shape:
        raise InputError(  # timm would resample the patch embedding silently
            f"checkpoint {str(path)!r} does not fit: {name!r} is {tuple(given.shape)} there and {tuple(own.shape)} in "
            "the backbone; check --model and --model-arg"
        )
    architecture = str(getattr(module, "pretrained_cfg", {}).get("architecture", ""))
    options = next((options for begin, options in CONVERSIONS.items() if architecture.startswith(begin)), {})
    try:
        converted = _converted(weights, module, options)
    except Exception as error:  # the conversion assumes weights of its architecture
        raise InputError(
            f"checkpoint {str(path)!r} does not fit: {type(error).__name__} {reason(error)}; "
            "check --model and --model-arg"
        ) from error
    interpolation = {name: value for name, value in options.items() if name in INTERPOLATION}
    cut = {"pos_embed": converted.pop("pos_embed")} if _is_radios(weights) and "pos_embed" in converted else {}
    fitted, tables = fit_tables(module, converted, path, grid, **interpolation)
    side = isqrt(weights[RADIO_TABLE].shape[1]) if cut else 0
    grids = flat_tables(module)
    tables += [PositionTable(name, in_words((side, side)), in_words(grids[name])) for name in cut if name in grids]
    return Converted(fitted | cut, tables)


def _is_radios(weights: Weights) -> bool:
    """Return whether weights are of RADIO's own files, whose table timm brings to the grid by RADIO's own means."""
    return RADIO_TABLE in weights and weights[RADIO_TABLE].ndim == len("BND")


def _converted(weights: Weights, module: nn.Module, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Apply timm's conversion, except to flat position tables: timm would guess their grid silently."""
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return dict(weights)
    if isinstance(module, VisionTransformer | Eva) and not _is_radios(weights):
        table, module.pos_embed = module.pos_embed, None  # timm resamples only if the model has a table
        try:
            return dict(convert(dict(weights), module, **options))
        finally:
            module.pos_embed = table
    tables = {} if _is_radios(weights) else {name: weights[name] for name in flat_tables(module) if name in weights}
    others = {name: tensor for name, tensor in weights.items() if name not in tables}
    return dict(convert(others, module, **options)) | tables
