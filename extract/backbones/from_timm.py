"""timm backbones, through timm's own `forward_intermediates`: one forward for any number of layers."""

import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from math import isqrt
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub.errors import HfHubHTTPError
from timm.data.config import resolve_data_config
from timm.models import Eva, VisionTransformer
from torch import Tensor, nn

from ...errors import InputError, unknown_name
from ...store.layout import LayerShape
from ..views import Transform
from . import torchvision_vit
from .contract import Backbone, BackboneRequest, Tokens
from .intermediates import Intermediates, final_norm_of, intermediates_of, prefix_names
from .names import HUB_FORMS, portable, reason
from .weights.files import Checkpoint, load_checkpoint
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
"""Arguments that timm's own loading gives its conversion of weights, by the beginning of an architecture's name."""
INTERPOLATION = ("interpolation", "antialias", "align_corners")
"""Those of them that are of position tables too."""
RADIO_TABLE = "radio_model.model.patch_generator.pos_embed"
"""Position table of RADIO's own files: a square one, larger than images need, out of which a part is cut."""


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
        InputError: no such model, arguments it does not take, weights that do not fit or cannot be fetched, or
            a model that does not give its blocks' outputs.
    """
    _check_name(request)
    checkpoint = load_checkpoint(request.checkpoint) if request.checkpoint else None
    module = _create(request)
    loaded = load_timm_weights(module, checkpoint, request.reading) if checkpoint else None
    module.eval().requires_grad_(False)
    intermediates = intermediates_of(module)
    if intermediates is None:
        raise InputError(
            f"timm model {request.name!r} does not give its blocks' outputs: it has no forward_intermediates, and its "
            "feature_info names no modules"
        )
    transform = _transform(module, request, checkpoint.metadata if checkpoint else {})
    try:
        backbone = TimmBackbone(f"timm:{portable(request.name)}", module, request.arguments, transform, intermediates)
    except Exception as error:  # any of timm's models, with any arguments
        raise InputError(
            f"timm model {request.name!r} with {dict(request.arguments)} cannot give its blocks' tokens for images of "
            f"3 channels and {transform.input_size} pixels: {reason(error)}"
        ) from error
    backbone.loaded = loaded
    return backbone


def timm_names() -> list[str]:
    """Return every model with weights that timm can load, and architectures without."""
    tagged = timm.list_pretrained()
    return sorted({*tagged, *timm.list_models()} - {name.split(".")[0] for name in tagged})


def timm_shapes(name: str) -> list[LayerShape]:
    """Return the shapes of a model's layers, without its weights; none if it has no layers to read."""
    config = timm.get_pretrained_cfg(name)
    return _shapes_at(name.split(".")[0], tuple(config.input_size[-2:])) if config else []


@cache
def _shapes_at(architecture: str, size: tuple[int, int]) -> list[LayerShape]:
    request = BackboneRequest(architecture, {}, None, pretrained=False, seed=0, image_size=size)
    with torch.device("meta"):
        intermediates = intermediates_of(_create(request).eval())
    return intermediates.shapes(size) if intermediates else []


def is_timm(name: str) -> bool:
    """Return whether timm knows a model, or a class, of that name, or would read its configuration."""
    known = name.startswith(HUB_FORMS) or timm.is_model(name.split(".")[0])
    return bool(known) or _architecture(name) is not None


def _check_name(request: BackboneRequest) -> None:
    if not is_timm(request.name):
        raise unknown_name("timm model", request.name, timm.list_models())
    if _architecture(request.name) and request.pretrained and request.checkpoint is None:
        raise InputError(
            f"timm architecture {request.name!r} has no published weights; give --checkpoint or --no-pretrained"
        )


def _architecture(name: str) -> type[nn.Module] | None:
    """Return a class of timm's, such as VisionTransformer, for models that have no name in timm."""
    found = getattr(timm.models, name, None)
    return found if inspect.isclass(found) and issubclass(found, nn.Module) else None


def _create(request: BackboneRequest) -> nn.Module:
    """Build the model; one that fixes its image size is built for the size that is wanted."""
    download = request.pretrained and request.checkpoint is None
    if request.image_size is None:
        return _build(request, {}, download=download)
    if "img_size" in request.arguments:
        raise InputError(
            f"image size {request.image_size} and model argument img_size={request.arguments['img_size']!r} asked for; "
            "give one of --image-size and --model-arg img_size"
        )
    with torch.device("meta"):
        drawn = _build(request, {}, download=False)
    takes_size = any("img_size" in inspect.signature(kind).parameters for kind in type(drawn).__mro__[:-1])
    return _build(request, {"img_size": request.image_size} if takes_size else {}, download=download)


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
            f"the weights of timm model {request.name!r} could not be fetched ({reason(error)}); "
            "give a local file with --checkpoint, or --no-pretrained"
        ) from error
    except TypeError as error:
        raise InputError(f"timm model {request.name!r} does not take {request.arguments}: {reason(error)}") from error
    except Exception as error:  # any of timm's models, with any arguments
        raise InputError(f"timm model {request.name!r} cannot be built: {reason(error)}") from error


def load_timm_weights(module: nn.Module, checkpoint: Checkpoint, reading: Reading) -> LoadReport:
    """Load a checkpoint into a timm model, by way of the conversion that timm keeps beside its architecture.

    Raises:
        InputError: it does not fit.
    """

    def convert(weights: Weights) -> Converted:
        return convert_to_timm(weights, module, checkpoint.path, reading.grid)

    return load_weights(module, checkpoint, reading, convert)


def convert_to_timm(weights: Weights, module: nn.Module, path: Path, grid: Grid | None) -> Converted:
    """Apply the conversion that timm keeps beside an architecture, and bring position tables to the module's grid.

    Args:
        weights: by the names of any training code.
        module: a timm model.
        path: of the weights' file.
        grid: (height, width) in patches of its position tables; None to tell it from their size.

    Raises:
        InputError: the weights are not those of the architecture.
    """
    weights = torchvision_vit.renamed(weights)
    name = "patch_embed.proj.weight"
    own, given = module.state_dict().get(name), weights.get(name)
    if own is not None and given is not None and own.ndim == given.ndim and own.shape != given.shape:
        raise InputError(  # timm would resample the patches without a word
            f"checkpoint {str(path)!r} does not fit: {name!r} is {tuple(given.shape)} there and {tuple(own.shape)} in "
            "the backbone; check --model and --model-arg"
        )
    architecture = str(getattr(module, "pretrained_cfg", {}).get("architecture", ""))
    options = next((options for begin, options in CONVERSIONS.items() if architecture.startswith(begin)), {})
    try:
        converted = _converted(weights, module, options)
    except Exception as error:  # it takes the weights for those of its architecture
        raise InputError(
            f"checkpoint {str(path)!r} does not fit: {type(error).__name__} {reason(error)}; "
            "check --model and --model-arg"
        ) from error
    interpolation = {name: value for name, value in options.items() if name in INTERPOLATION}
    if RADIO_TABLE not in weights:
        return Converted(*fit_tables(module, converted, path, grid, **interpolation))
    table = converted.pop("pos_embed")  # which timm brought to the grid, by RADIO's own means
    fitted, tables = fit_tables(module, converted, path, grid, **interpolation)
    side = isqrt(weights[RADIO_TABLE].shape[1])
    cut = PositionTable("pos_embed", in_words((side, side)), in_words(flat_tables(module)["pos_embed"]))
    return Converted(fitted | {"pos_embed": table}, [cut, *tables])


def _converted(weights: Weights, module: nn.Module, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Apply timm's conversion, but to no flat position table: it would guess the grid, and say nothing."""
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return dict(weights)
    if isinstance(module, VisionTransformer | Eva) and RADIO_TABLE not in weights:
        table, module.pos_embed = module.pos_embed, None  # it resamples tables for models that have one
        try:
            return dict(convert(dict(weights), module, **options))
        finally:
            module.pos_embed = table
    tables = {} if RADIO_TABLE in weights else {name: weights[name] for name in flat_tables(module) if name in weights}
    others = {name: tensor for name, tensor in weights.items() if name not in tables}
    return dict(convert(others, module, **options)) | tables


def _transform(module: nn.Module, request: BackboneRequest, metadata: Mapping[str, str]) -> Transform:
    """Resolve the evaluation transform, with the input size that the model was built with."""
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


def _built_size(module: nn.Module, request: BackboneRequest) -> tuple[int, int, int] | None:
    built = getattr(getattr(module, "patch_embed", None), "img_size", None)
    size = request.image_size or built or request.arguments.get("img_size")
    height, width = (size, size) if isinstance(size, int) else size or (0, 0)
    return (3, int(height), int(width)) if size else None


def _channel_values(metadata: Mapping[str, str], key: str, request: BackboneRequest) -> tuple[float, ...]:
    """Read mean or std in the metadata of the weights: three numbers, in JSON."""
    try:
        values = tuple(float(value) for value in json.loads(metadata[key]))
    except (ValueError, TypeError):
        values = ()
    if len(values) != 3 or (key == "std" and min(values) <= 0):
        raise InputError(
            f"checkpoint {str(request.checkpoint)!r} has {key} {metadata[key]!r} in its metadata, beside mean and std: "
            "expected three numbers such as [0.485, 0.456, 0.406], above 0 for std"
        )
    return values
