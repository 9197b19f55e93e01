"""Checks of the settings alone, before anything is loaded."""

from ..errors import InputError, unknown_name
from ..runtime.device import AMP
from ..store.claim import check_path
from ..store.formats import local_path
from ..store.layout import PATCH, PREFIX
from ..store.quantize import DTYPES
from .config import ExtractConfig

CHOICES = {
    "dtype": tuple(DTYPES),
    "row_order": ("shuffled", "dataset"),
    "amp": AMP,
}
LEAST = {"batch_size": 1, "block_mib": 1, "limit": 1, "workers": 0, "seed": 0, "views": 1}
MOST_OF_RANGE = {"view_scale": 1, "view_ratio": 1000}


def check_config(config: ExtractConfig) -> None:
    """Check the settings that can be judged without backbone and data.

    Raises:
        InputError: a field is unknown or out of range.
        StoreError: the path of the store holds something that is no store.
    """
    for name, known in CHOICES.items():
        if getattr(config, name) not in known:
            raise unknown_name(name, str(getattr(config, name)), known)
    for kind in config.tokens:
        if kind not in (PATCH, PREFIX):
            raise unknown_name("tokens", kind, (PATCH, PREFIX))
    for name, least in LEAST.items():
        value = getattr(config, name)
        if value is not None and value < least:
            raise InputError(f"{name} {value}: expected at least {least}")
    if config.split_fraction is not None and not 0 < config.split_fraction < 1:
        raise InputError(f"split_fraction {config.split_fraction}: expected a number between 0 and 1")
    for name, most in MOST_OF_RANGE.items():
        limits = getattr(config, name)
        if len(limits) != 2 or not 0 < limits[0] <= limits[1] <= most:
            raise InputError(f"{name} {limits}: expected two numbers, 0 < smallest <= largest <= {most}")
    _check_backbone(config)
    check_path(local_path(config.out))


def _check_backbone(config: ExtractConfig) -> None:
    if len(config.image_size) > 2 or min(config.image_size, default=1) < 1:
        raise InputError(f"image_size {config.image_size}: expected a side in pixels, or height and width")
    if len(config.checkpoint_grid) > 2 or min(config.checkpoint_grid, default=1) < 1:
        raise InputError(f"checkpoint_grid {config.checkpoint_grid}: expected a side in patches, or height and width")
    for name in ("allow_missing", "checkpoint_key", "checkpoint_grid"):
        if getattr(config, name) and config.checkpoint is None:
            raise InputError(f"{name} {getattr(config, name)} without a checkpoint; give --checkpoint FILE with it")
