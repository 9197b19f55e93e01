"""Checks of the settings, before any model or data is loaded."""

from ..engines import engine_name
from ..engines.shards import parse_shard
from ..errors import InputError
from ..store.checked import is_json
from ..store.claim import check_path, check_recorded
from ..store.formats import store_files
from ..store.outputs import check_store
from .config import ExtractConfig

BUILDING = ("model_arg", "checkpoint", "no_pretrained", "image_size")
"""Settings that build a backbone by name."""
MOST_OF_RANGE = {"view_scale": 1, "view_ratio": 1000}


def check_config(config: ExtractConfig) -> None:
    """Check the settings that need neither backbone nor data.

    Raises:
        InputError: a field is out of range, or the store would be inside another or a run.
        StoreError: the output path holds something other than a store, or a store that has lost its journal.
    """
    if config.split_fraction is not None and not 0 < config.split_fraction < 1:
        raise InputError(f"split_fraction {config.split_fraction}: expected a number between 0 and 1")
    for name, most in MOST_OF_RANGE.items():
        limits = getattr(config, name)
        if len(limits) != 2 or not 0 < limits[0] <= limits[1] <= most:
            raise InputError(f"{name} {limits}: expected two numbers, 0 < smallest <= largest <= {most}")
    _check_backbone(config)
    parse_shard(config.shard)
    for name in ("overwrite", "skip_bad_images"):
        if config.shard is not None and getattr(config, name):
            raise InputError(
                f"{name} and shard {config.shard!r} do not go together, because shards know nothing of one another; "
                f"give --{name.replace('_', '-')} without --shard"
            )
    out = check_store(config.out)
    check_path(out)
    if not config.overwrite:
        check_recorded(store_files(out))


def _check_backbone(config: ExtractConfig) -> None:
    if not isinstance(config.model, str):
        _check_built(config)
    for name, value in config.model_arg.items():
        if not is_json(value):
            raise InputError(
                f"model_arg {name}={value!r}: expected finite numbers, text, true, false, none, or lists and mappings "
                "of these, because the store records it; for anything else give model='python:MODULE:FUNCTION' with a "
                "function that builds the backbone"
            )
    if len(config.image_size) > 2 or min(config.image_size, default=1) < 1:
        raise InputError(f"image_size {config.image_size}: expected a side in pixels, or height and width")
    if len(config.checkpoint_grid) > 2 or min(config.checkpoint_grid, default=1) < 1:
        raise InputError(f"checkpoint_grid {config.checkpoint_grid}: expected a side in patches, or height and width")
    for name in ("allow_missing", "checkpoint_key", "checkpoint_grid"):
        if getattr(config, name) and config.checkpoint is None:
            raise InputError(f"{name} {getattr(config, name)} without a checkpoint; give --checkpoint FILE with it")


def _check_built(config: ExtractConfig) -> None:
    for name in BUILDING:
        if getattr(config, name):
            raise InputError(
                f"{name} {getattr(config, name)} builds a backbone by name, but the model given is built already; "
                f"leave {name} out"
            )
    if engine_name(config.engine) != "inline":
        raise InputError(
            f"engine {engine_name(config.engine)!r} loads the backbone in several processes, by its name, but the "
            "model given is an object; give model='python:MODULE:FUNCTION' with a function that returns it"
        )
