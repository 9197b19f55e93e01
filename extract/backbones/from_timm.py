"""timm backbones, through timm's own `forward_intermediates`: one forward pass for any number of layers."""

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import timm
import torch
from huggingface_hub.errors import HfHubHTTPError
from timm.data.config import resolve_data_config
from torch import Tensor, nn

from ...errors import InputError, unknown_name
from ...store.layout import LayerShape
from ..views import Transform
from .contract import Backbone, BackboneRequest, Tokens
from .intermediates import Intermediates, final_norm_of, intermediates_of, prefix_names
from .names import HUB_FORMS, portable, reason
from .timm_weights import load_timm_weights
from .weights.files import load_checkpoint
from .weights.loading import table_lines
from .weights.position_tables import left_tables, moved_tables

N_NAMED = 3
"""Number of weights that a line names."""


class TimmBackbone(Backbone):
    """A timm model; see `load_timm`."""

    def __init__(
        self,
        name: str,
        module: nn.Module,
        arguments: Mapping[str, Any],
        transform: Transform,
        intermediates: Intermediates,
    ) -> None:
        self.name, self.module, self.arguments, self.transform = name, module, arguments, transform
        self._intermediates = intermediates
        self.shapes = intermediates.shapes(transform.input_size)
        self.prefix_names = prefix_names(module, self.shapes[-1].n_prefix)

    def tokens(self, images: Tensor, layers: Sequence[int]) -> dict[int, Tokens]:
        """See `Backbone.tokens`."""
        return dict(zip(sorted(layers), self._intermediates(images, sorted(layers)), strict=True))

    def final_norm(self) -> dict[str, Any] | None:
        """See `Backbone.final_norm`."""
        return final_norm_of(self.module)


def load_timm(request: BackboneRequest) -> TimmBackbone:
    """Build a timm model, load its weights and freeze it.

    Raises:
        InputError: no such model, the model does not take the arguments or does not return its blocks' outputs, or its
            weights do not fit or cannot be downloaded.
    """
    _check_name(request)
    checkpoint = load_checkpoint(request.checkpoint) if request.checkpoint else None
    module = _create(request)
    loaded = load_timm_weights(module, checkpoint, request.reading) if checkpoint else None
    module.eval().requires_grad_(False)
    intermediates = intermediates_of(module)
    if intermediates is None:
        raise InputError(
            f"timm model {request.name!r} does not return its blocks' outputs: it has no forward_intermediates, and "
            "its feature_info names no modules"
        )
    transform = _transform(module, request, checkpoint.metadata if checkpoint else {})
    try:
        backbone = TimmBackbone(f"timm:{portable(request.name)}", module, request.arguments, transform, intermediates)
    except Exception as error:  # any timm model, with any arguments
        raise InputError(
            f"timm model {request.name!r} with {dict(request.arguments)} fails on images of 3 channels and "
            f"{transform.input_size} pixels: {reason(error)}"
        ) from error
    backbone.loaded = loaded
    if checkpoint and transform.crop_mode != "none":  # "none": the file states its preprocessing
        backbone.notes = _other_preprocessing(request)
    if request.wants_published and (request.image_size or "img_size" in request.arguments):
        backbone.notes = table_lines(moved_tables(_native(request), module))
    return backbone


def timm_names() -> list[str]:
    """Return every timm model with its weights, and the architectures without weights."""
    tagged = timm.list_pretrained()
    return sorted({*tagged, *timm.list_models()} - {name.split(".")[0] for name in tagged})


def timm_shapes(name: str) -> list[LayerShape]:
    """Return the shapes of a model's layers, without its weights; an empty list if its layers cannot be read."""
    config = timm.get_pretrained_cfg(name)
    return _shapes_at(name.split(".")[0], tuple(config.input_size[-2:])) if config else []


@cache
def _shapes_at(architecture: str, size: tuple[int, int]) -> list[LayerShape]:
    request = BackboneRequest(architecture, {}, None, pretrained=False, seed=0, image_size=size)
    with torch.device("meta"):
        intermediates = intermediates_of(_create(request).eval())
    return intermediates.shapes(size) if intermediates else []


def is_timm(name: str) -> bool:
    """Return whether timm knows a model or class of that name, or would read its configuration."""
    known = name.startswith(HUB_FORMS) or timm.is_model(name.split(".")[0])
    return bool(known) or _architecture(name) is not None


def _check_name(request: BackboneRequest) -> None:
    if not is_timm(request.name):
        raise unknown_name("timm model", request.name, timm.list_models())
    if _architecture(request.name) and request.wants_published:
        raise InputError(
            f"timm architecture {request.name!r} has no published weights; give --checkpoint or --no-pretrained"
        )


def _architecture(name: str) -> type[nn.Module] | None:
    """Return the timm class of that name, such as VisionTransformer, or None."""
    found = getattr(timm.models, name, None)
    return found if inspect.isclass(found) and issubclass(found, nn.Module) else None


def _create(request: BackboneRequest) -> nn.Module:
    """Build the model; if it has a fixed image size, build it for the wanted size."""
    asked = request.arguments.get("img_size")
    if request.image_size is not None and asked is not None:
        raise InputError(
            f"image_size {request.image_size} and the model argument img_size={asked!r} both set the image size; "
            "give one of --image-size and --model-arg img_size"
        )
    if request.image_size is None and (asked is None or not request.wants_published):
        return _build(request, {}, download=request.downloads)
    native: Any = _native(request)
    takes_size = any("img_size" in inspect.signature(kind).parameters for kind in type(native).__mro__[:-1])
    size = {"img_size": request.image_size or asked} if takes_size else {}
    left = _left_tables(native, request, size) if size and request.wants_published else []
    if not left:
        return _build(request, size, download=request.downloads)
    if not hasattr(native, "set_input_size"):
        raise InputError(
            f"timm model {request.name!r} cannot use images of {size['img_size']} pixels, since timm does not resample "
            f"its position table {left[0]!r}; give an --image-size with the model's own ratio of height to width"
        )
    module = _build(_of_its_size(request), {}, download=request.downloads)  # timm would load equal shapes unchanged
    module.set_input_size(**size)  # type: ignore[operator]
    return module


def _of_its_size(request: BackboneRequest) -> BackboneRequest:
    return replace(request, arguments={name: each for name, each in request.arguments.items() if name != "img_size"})


def _native(request: BackboneRequest) -> nn.Module:
    """Build the model without weights, at its own image size."""
    with torch.device("meta"):
        return _build(_of_its_size(request), {}, download=False)


def _left_tables(native: Any, request: BackboneRequest, size: Mapping[str, Any]) -> list[str]:
    """Return the tables of published weights with another grid that timm would load without resampling."""
    with torch.device("meta"):
        module = _build(request, size, download=False)
    own = native.pretrained_cfg["input_size"][-2:]
    height, width = _sides(size["img_size"])
    return left_tables(native, module, of_other_form=bool(height * own[1] != width * own[0]))


def _build(request: BackboneRequest, changes: Mapping[str, Any], *, download: bool) -> nn.Module:
    arguments = {"num_classes": 0, **request.arguments, **changes}
    architecture = _architecture(request.name)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            if architecture is not None:
                return architecture(**arguments)
            return timm.create_model(request.name, pretrained=download, **arguments)
    except (OSError, HfHubHTTPError) as error:
        raise InputError(
            f"the weights of timm model {request.name!r} could not be downloaded ({reason(error)}); "
            "give a local file with --checkpoint, or --no-pretrained"
        ) from error
    except TypeError as error:
        raise InputError(f"timm model {request.name!r} does not take {request.arguments}: {reason(error)}") from error
    except Exception as error:  # any timm model, with any arguments
        raise InputError(f"timm model {request.name!r} cannot be built: {reason(error)}") from error


def _transform(module: nn.Module, request: BackboneRequest, metadata: Mapping[str, str]) -> Transform:
    """Resolve the evaluation transform at the input size that the model was built for."""
    size = _built_size(module, request)
    config = resolve_data_config({"input_size": size} if size else {}, model=module)
    plain = "mean" in metadata and "std" in metadata
    return Transform(
        input_size=(config["input_size"][1], config["input_size"][2]),
        interpolation=config["interpolation"],
        crop_pct=None if plain else config["crop_pct"],
        crop_mode="none" if plain else config["crop_mode"],
        mean=_channel_values(metadata, "mean", request) if plain else tuple(config["mean"]),
        std=_channel_values(metadata, "std", request) if plain else tuple(config["std"]),
    )


def _other_preprocessing(request: BackboneRequest) -> list[str]:
    """Return a line about the preprocessing if the name has no weights' tag and published weights differ in it."""
    taken = timm.get_pretrained_cfg(request.name, allow_unregistered=True)
    if "." in request.name or taken is None:
        return []
    tags = {name: timm.get_pretrained_cfg(name) for name in timm.list_pretrained(f"{request.name}.*")}
    others = [name for name, config in tags.items() if _how(config) != _how(taken)]
    if not others:
        return []
    mean, std, interpolation = _how(taken)
    named = ", ".join(others[:N_NAMED]) + (", …" if len(others) > N_NAMED else "")
    return [
        f"images are prepared as for {request.name}.{taken.tag} (mean {mean[0]:.3g}, deviation {std[0]:.3g}, "
        f"{interpolation}); {named} differ, so name the weights that match yours, such as timm:{others[0]}"
    ]


def _how(config: Any) -> tuple[Any, ...]:
    return config.mean, config.std, config.interpolation


def _built_size(module: nn.Module, request: BackboneRequest) -> tuple[int, int, int] | None:
    built = getattr(getattr(module, "patch_embed", None), "img_size", None)
    size = request.image_size or built or request.arguments.get("img_size")
    return (3, *_sides(size)) if size else None


def _sides(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _channel_values(metadata: Mapping[str, str], key: str, request: BackboneRequest) -> tuple[float, ...]:
    """Read mean or std from the metadata of the weights: three numbers in JSON."""
    try:
        values = tuple(float(value) for value in json.loads(metadata[key]))
    except (ValueError, TypeError):
        values = ()
    if len(values) != 3 or (key == "std" and min(values) <= 0):
        raise InputError(
            f"checkpoint {str(request.checkpoint)!r} has {key} {metadata[key]!r} in its metadata; "
            "expected three numbers such as [0.485, 0.456, 0.406], above 0 for std"
        )
    return values
