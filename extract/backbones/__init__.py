"""Backbone sources by name. A new one is a file here and a line in `BACKBONES`."""

import os
from collections.abc import Callable

from ...errors import unknown_name
from .contract import Backbone, BackboneRequest
from .from_timm import load_timm

__all__ = ["BACKBONES", "Backbone", "BackboneRequest", "absolute_model", "split_source"]

BACKBONES: dict[str, Callable[[BackboneRequest], Backbone]] = {
    "timm": load_timm,
}


def split_source(model: str) -> tuple[str, str]:
    """Split "timm:NAME" into source and name; a bare name, or timm's hf-hub: and local-dir: forms, are timm's.

    Raises:
        InputError: no such source.
    """
    source, colon, name = model.partition(":")
    if not colon or source in ("hf-hub", "hf_hub", "local-dir"):
        return "timm", model
    if source not in BACKBONES:
        raise unknown_name("backbone source", source, BACKBONES)
    return source, name


def absolute_model(model: str) -> str:
    """Return the name that means the same in any working folder: that of a local folder made absolute."""
    before, local, folder = model.partition("local-dir:")
    return f"{before}{local}{os.path.abspath(folder)}" if local else model
