"""Backbones: build a model, load its weights, freeze it, and return the tokens of its layers.

Each source of models is a file here and a line in `BACKBONES`; all provide the `Backbone` of `contract.py`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import huggingface_hub.utils

from ...errors import InputError, unknown_name
from ...runtime.console import bars_of
from .contract import Backbone, BackboneRequest
from .from_hub import absolute_entry, hub_code, load_hub
from .from_module import ModuleBackbone, load_module, load_python, python_code
from .from_open_clip import is_open_clip, load_open_clip
from .from_timm import is_timm, load_timm
from .from_transformers import load_transformers, remote_code
from .names import HUB_FORMS
from .weights.folders import check_folder
from .weights.loading import Reading

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneRequest",
    "ModuleBackbone",
    "absolute_model",
    "code_of",
    "load_backbone",
    "split_source",
]

BACKBONES: dict[str, Callable[[BackboneRequest], Backbone]] = {
    "timm": load_timm,
    "open_clip": load_open_clip,
    "hub": load_hub,
    "transformers": load_transformers,
    "python": load_python,
    "module": load_module,
}
OWN = ("python", "module")
"""The sources of users' own code."""
CODE: dict[str, Callable[[str, Mapping[str, Any]], str]] = {
    "hub": lambda name, _: hub_code(name),
    "transformers": remote_code,
    "python": lambda name, _: python_code(name),
}
"""The sources that may run code from outside installed packages, with a function that describes the code."""


def load_backbone(  # noqa: PLR0913
    model: str | Backbone,
    *,
    model_arg: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_key: str | None = None,
    checkpoint_grid: Sequence[int] = (),
    allow_missing: Sequence[str] = (),
    no_pretrained: bool = False,
    seed: int = 0,
    image_size: Sequence[int] = (),
    fetches: bool = True,
) -> Backbone:
    """Build a backbone, load its weights and freeze it. The arguments are the fields of `ExtractConfig`.

    A backbone that is built already is returned as a copy with the same module.

    Without `fetches`, weights are drawn where published ones would be fetched: a dry run needs shapes and speed alone.

    Raises:
        InputError: no such model, or its weights do not fit or cannot be downloaded.
        MissingError: no such checkpoint.
    """
    if isinstance(model, str):
        source, name = split_source(model)
        request = BackboneRequest(
            name=name,
            arguments=model_arg or {},
            checkpoint=None if checkpoint is None else Path(checkpoint),
            pretrained=not no_pretrained,
            seed=seed,
            image_size=_height_and_width(image_size),
            reading=Reading(allow_missing, checkpoint_key, _height_and_width(checkpoint_grid)),
            fetches=fetches,
        )
        if request.downloads:
            check_folder(name)
        with bars_of(huggingface_hub.utils):
            backbone = BACKBONES[source](request)
    elif isinstance(model, Backbone):
        backbone = copy(model)
    else:
        raise InputError(
            f"model is a {type(model).__name__}; give a name, or ModuleBackbone(module, blocks=…) of "
            "tokenprobe.extract.backbones"
        )
    for name, parameter in backbone.module.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise InputError(
                f"backbone {model_name(model)!r} has weights that are not finite, such as {name!r}; use other weights"
            )
    return backbone


def split_source(model: str) -> tuple[str, str]:
    """Split "timm:NAME" into source and name. A bare name is looked up in timm, then in open_clip ("ARCH:TAG").

    Raises:
        InputError: no such source.
    """
    source, colon, name = model.partition(":")
    if colon and source in BACKBONES:
        return source, name
    if not is_timm(model) and is_open_clip(model):
        return "open_clip", model
    if colon and not model.startswith(HUB_FORMS):
        raise unknown_name("backbone source", source, [name for name in BACKBONES if name != "module"])
    return "timm", model


def _height_and_width(sides: Sequence[int]) -> tuple[int, int] | None:
    return (sides[0], sides[-1]) if sides else None


def model_name(model: str | Backbone) -> str:
    """Return the name of a model, which may be built already."""
    return model if isinstance(model, str) else model.name


def has_published(model: str | Backbone) -> bool:
    """Return whether a model has published weights, which are fetched by its name."""
    return isinstance(model, str) and split_source(model)[0] not in OWN


def code_of(model: str, arguments: Mapping[str, Any]) -> str:
    """Describe the code, outside installed packages, that loading a model would run; "" if there is none.

    Args:
        model: name of the model.
        arguments: its `model_arg`.
    """
    source, name = split_source(model)
    return CODE[source](name, arguments) if source in CODE else ""


def absolute_model(model: str) -> str:
    """Return a model's name with any path to a local folder made absolute."""
    source, _, name = model.partition(":")
    if source == "hub":
        return f"hub:{absolute_entry(name)}"
    before, local, folder = model.partition("local-dir:")
    return f"{before}{local}{os.path.abspath(os.path.expanduser(folder))}" if local else model
