"""Image towers of open_clip: its own transformers and ResNets, timm trunks, CoCa. The text tower is not kept."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ...errors import InputError, unknown_name
from ...store.layout import LayerShape
from ..views import Transform
from .contract import BackboneRequest
from .names import HUB_FORMS, portable, reason
from .open_clip_preprocessing import activation_note, preprocessing_of
from .open_clip_tower import OpenClipBackbone
from .timm_weights import convert_to_timm
from .weights.files import Checkpoint, load_checkpoint
from .weights.loading import Converted, LoadReport, Reading, load_weights, table_lines
from .weights.position_tables import fit_tables, flat_tables, left_tables, moved_tables
from .weights.sets import Weights

CROP_MODES = {"shortest": "center", "squash": "squash"}
"""timm's names for open_clip's ways to resize to a square."""
TRUNK = "trunk."
"""Prefix of the weight names of a timm model inside a tower."""
TOP_LEVEL = ("embed_dim", "quick_gelu")
"""Settings that a model keeps outside those of its vision tower."""


def load_open_clip(request: BackboneRequest) -> OpenClipBackbone:
    """Build an open_clip image tower, load its weights and freeze it.

    Raises:
        InputError: no such architecture or weights, the model does not take the arguments, or its weights do not fit
            or cannot be downloaded.
    """
    checkpoint = load_checkpoint(request.checkpoint) if request.checkpoint else None
    if request.wants_published:
        _check_published(request)
    if request.downloads:
        tower, preprocessing = _pretrained_tower(request)
    else:
        tower, preprocessing = _drawn_tower(request)
    loaded = _load_tower(tower, checkpoint, request.reading) if checkpoint else None
    tower.eval().requires_grad_(False)
    transform = _transform(preprocessing, tower, request)
    try:
        if request.image_size and hasattr(tower, "set_input_size"):  # a timm trunk, built for the size in its name
            tower.set_input_size(request.image_size)
        backbone = OpenClipBackbone(f"open_clip:{portable(request.name)}", tower, request.arguments, transform)
    except Exception as error:  # any tower, with any arguments
        raise InputError(
            f"open_clip model {request.name!r} with {dict(request.arguments)} fails on images of "
            f"{transform.input_size} pixels: {reason(error)}"
        ) from error
    backbone.loaded = loaded
    notes = activation_note(*split_tag(request.name)) if checkpoint else []
    if request.image_size and (loaded is None or hasattr(tower, "trunk")):
        native = _native_tower(request)
        notes += table_lines(moved_tables(getattr(native, "trunk", native), getattr(tower, "trunk", tower)))
    backbone.notes = notes
    return backbone


def open_clip_names() -> list[str]:
    """Return every pair of architecture and weights that open_clip can load."""
    import open_clip

    return [f"{architecture}/{tag}" for architecture, tag in open_clip.list_pretrained()]


def open_clip_shapes(name: str) -> list[LayerShape]:
    """Return the shapes of a model's layers, without its weights."""
    return _shapes_of(split_tag(name)[0])


@cache
def _shapes_of(architecture: str) -> list[LayerShape]:
    request = BackboneRequest(architecture, {}, None, pretrained=False, seed=0)
    with torch.device("meta"):
        tower, preprocessing = _drawn_tower(request)
        backbone = OpenClipBackbone(architecture, tower.eval(), {}, _transform(preprocessing, tower, request))
    return list(backbone.shapes)


def is_open_clip(name: str) -> bool:
    """Return whether open_clip knows a name such as "ViT-B-32:openai"."""
    import open_clip

    return split_tag(name)[0] in open_clip.list_models()


def split_tag(name: str) -> tuple[str, str]:
    """Split "ARCH/TAG" or "ARCH:TAG" into architecture and tag; the tag is "" if there is none."""
    architecture, _, tag = name.replace(":", "/").partition("/")
    return architecture, tag


def _pretrained_tower(request: BackboneRequest) -> tuple[Any, Mapping[str, Any]]:
    """Build a model with its published weights; return its image tower, and their preprocessing."""
    import open_clip

    architecture, tag = request.name, None
    options: dict[str, Any] = {}
    if not request.name.startswith(HUB_FORMS):
        architecture, tag = _known_name(request)
        # Weights trained with QuickGELU give a different network with GELU; open_clip would only warn.
        options["force_quick_gelu"] = open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu", False)
    with _built(request):
        if request.arguments:
            options |= _settings(open_clip.get_model_config(architecture), request)
        model = open_clip.create_model(
            architecture,
            pretrained=tag,
            require_pretrained=True,
            force_image_size=_side_or_sides(request.image_size),
            **options,
        )
    _resample_left_tables(model.visual, request)
    return model.visual, model.visual.preprocess_cfg


def _check_published(request: BackboneRequest) -> None:
    """Raise InputError if the name has no published weights."""
    import open_clip

    if request.name.startswith(HUB_FORMS):
        return
    architecture, tag = _known_name(request)
    if not tag:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise InputError(
            f"open_clip model {architecture!r} needs the name of its weights; write "
            f"open_clip:{architecture}/WEIGHTS (known: {known}), or give --checkpoint or --no-pretrained"
        )


def _resample_left_tables(tower: Any, request: BackboneRequest) -> None:
    """Resample the position table of published weights if open_clip did not: its grid differs, but not its size."""
    if request.image_size is None or hasattr(tower, "trunk"):
        return
    native = _native_tower(request)
    for name in left_tables(native, tower, of_other_form=False):
        table = {name: tower.state_dict()[name]}
        fitted, _ = fit_tables(tower, table, Path(request.name), flat_tables(native)[name])
        tower.load_state_dict(fitted, strict=False)


def _drawn_tower(request: BackboneRequest) -> tuple[Any, Mapping[str, Any]]:
    """Build an image tower with weights drawn from the seed; return it, and the preprocessing for its tag."""
    import open_clip
    from open_clip.transform import PreprocessCfg

    if request.name.startswith(HUB_FORMS):
        if not request.wants_published:
            raise InputError(
                f"open_clip model {request.name!r} has its own weights; with --checkpoint or --no-pretrained, name its "
                "architecture instead, such as open_clip:ViT-B-16"
            )
        config, published = _hub_config(request)
        preprocessing = asdict(PreprocessCfg()) | published
    else:
        architecture, tag = _known_name(request)
        preprocessing = preprocessing_of(architecture, tag, request.checkpoint)
        config, published = open_clip.get_model_config(architecture), open_clip.get_pretrained_cfg(architecture, tag)
    activation = {"quick_gelu": True} if published.get("quick_gelu") else {}  # weights fit only their own activation
    return _tower_of(config | activation, request), preprocessing


def _hub_config(request: BackboneRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the settings and the preprocessing of a model with its own weights, without downloading the weights."""
    from open_clip.factory import _get_hf_config

    form, _, place = request.name.partition(":")
    with _built(request):
        if form == "local-dir":
            content = json.loads((Path(place) / "open_clip_config.json").read_text())
        else:
            content = _get_hf_config(place)
    return content["model_cfg"], content.get("preprocess_cfg", {})


def _native_tower(request: BackboneRequest) -> Any:
    """Build the image tower without weights, at its own image size."""
    import open_clip

    hub_form = request.name.startswith(HUB_FORMS)
    config = open_clip.get_model_config(request.name if hub_form else split_tag(request.name)[0])
    with torch.device("meta"):
        return _tower_of(config, replace(request, image_size=None))


def _tower_of(config: Mapping[str, Any], request: BackboneRequest) -> Any:
    from open_clip.model import _build_vision_tower

    settings = {**config, **_settings(config, request)}
    with _built(request):
        return _build_vision_tower(settings["embed_dim"], settings["vision_cfg"], settings.get("quick_gelu", False))


def _known_name(request: BackboneRequest) -> tuple[str, str]:
    import open_clip

    architecture, tag = split_tag(request.name)
    if architecture not in open_clip.list_models():
        raise unknown_name("open_clip model", architecture, open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and not open_clip.get_pretrained_cfg(architecture, tag):
        raise unknown_name(f"weights of open_clip model {architecture!r}", tag, tags)
    return architecture, tag


def _settings(config: Mapping[str, Any], request: BackboneRequest) -> dict[str, Any]:
    """Return the changes to the tower's settings by --model-arg and the image size."""
    changes = {"timm_model_pretrained": False, **request.arguments}
    top = {name: changes.pop(name) for name in TOP_LEVEL if name in changes}
    if request.image_size and "timm_model_name" not in config["vision_cfg"]:
        changes["image_size"] = _side_or_sides(request.image_size)
    return top | {"vision_cfg": config["vision_cfg"] | changes}


def _side_or_sides(size: tuple[int, int] | None) -> int | tuple[int, int] | None:
    """Return one number for a square: open_clip's ResNets accept only squares."""
    return size[0] if size and size[0] == size[1] else size


def _load_tower(tower: Any, checkpoint: Checkpoint, reading: Reading) -> LoadReport:
    """Load the image tower of a CLIP checkpoint, and resample its position table as open_clip or timm does."""

    def convert(weights: Weights) -> Converted:
        trunk = getattr(tower, "trunk", None)
        if trunk is None:
            return Converted(*fit_tables(tower, weights, checkpoint.path, reading.grid))
        of_trunk = {n.removeprefix(TRUNK): tensor for n, tensor in weights.items() if n.startswith(TRUNK)}
        others = {name: tensor for name, tensor in weights.items() if not name.startswith(TRUNK)}
        converted = convert_to_timm(of_trunk, trunk, checkpoint.path, reading.grid)
        tables = [replace(table, name=TRUNK + table.name) for table in converted.tables]
        return Converted(others | {TRUNK + name: each for name, each in converted.weights.items()}, tables)

    return load_weights(tower, checkpoint, reading, convert)


def _transform(preprocessing: Mapping[str, Any], tower: Any, request: BackboneRequest) -> Transform:
    """Turn open_clip's preprocessing into a `Transform`."""
    how = preprocessing["resize_mode"]
    if how not in CROP_MODES:
        raise InputError(f"open_clip model {request.name!r} resizes images by {how!r}; known: {', '.join(CROP_MODES)}")
    size = request.image_size or tower.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return Transform(
        input_size=(height, width),
        interpolation=preprocessing["interpolation"],
        crop_pct=1.0,
        crop_mode=CROP_MODES[how],
        mean=tuple(preprocessing["mean"]),
        std=tuple(preprocessing["std"]),
    )


@contextmanager
def _built(request: BackboneRequest) -> Iterator[None]:
    """Build with the request's seed and without log messages; turn errors of open_clip into one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            yield
    except TypeError as error:
        raise InputError(
            f"open_clip model {request.name!r} does not take {dict(request.arguments)}: {reason(error)}"
        ) from error
    except Exception as error:  # any open_clip model, with any arguments, from any hub
        raise InputError(
            f"open_clip model {request.name!r} cannot be built or its weights cannot be downloaded ({reason(error)}); "
            "check --model-arg, or give a local file with --checkpoint"
        ) from error
    finally:
        logging.disable(before)
