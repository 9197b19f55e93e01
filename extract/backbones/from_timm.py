"""timm backbones, through timm's own `forward_intermediates`: one forward for any number of layers."""

import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub.errors import HfHubHTTPError
from timm.data.config import resolve_data_config
from timm.layers.norm import RmsNorm
from torch import Tensor, nn

from ...errors import InputError, unknown_name
from ...store.layout import LayerShape
from ..views import Transform
from .checkpoint import load_checkpoint, load_weights
from .contract import Backbone, BackboneRequest, Tokens

HUB_FORMS = ("hf-hub:", "hf_hub:", "local-dir:")


class TimmBackbone(Backbone):
    """A timm model; see `load_timm`."""

    def __init__(self, name: str, module: nn.Module, arguments: Mapping[str, Any], transform: Transform) -> None:
        self.name, self.module, self.arguments, self.transform = name, module, arguments, transform
        self._intermediates: Callable[..., Any] = getattr(module, "forward_intermediates")  # noqa: B009
        self._gives_prefix = "return_prefix_tokens" in inspect.signature(self._intermediates).parameters
        first = self._forward(torch.zeros(1, 3, *transform.input_size), None)
        n_prefix = first[-1][1].shape[1] if isinstance(first[-1], tuple) else 0
        self.shapes = [_shape(out, n_prefix, module) for out in first]
        self.prefix_names = _prefix_names(module, n_prefix)

    def tokens(self, images: Tensor, layers: Sequence[int]) -> dict[int, Tokens]:
        """See `Backbone.tokens`."""
        outputs = self._forward(images, sorted(layers))
        return {layer: _as_tokens(out) for layer, out in zip(sorted(layers), outputs, strict=True)}

    def final_norm(self) -> dict[str, Any] | None:
        """See `Backbone.final_norm`."""
        for name in ("norm", "fc_norm"):  # fc_norm where timm norms the pooled token instead
            norm: Any = getattr(self.module, name, None)
            kind = "LayerNorm" if isinstance(norm, nn.LayerNorm) else "RMSNorm" if isinstance(norm, RmsNorm) else None
            if kind is not None:
                given = {key: getattr(norm, key, None) for key in ("weight", "bias")}
                values = {key: None if p is None else p.detach().float().tolist() for key, p in given.items()}
                return {"kind": kind, "eps": norm.eps, **values}
        return None

    def _forward(self, images: Tensor, layers: list[int] | None) -> list[Any]:
        """Return timm's output for each layer: (patch, prefix), patch alone, or a (B, C, H, W) map."""
        options: dict[str, Any] = {"indices": layers, "norm": False, "stop_early": True, "intermediates_only": True}
        if self._gives_prefix:
            options |= {"output_fmt": "NLC", "return_prefix_tokens": True}
        with torch.no_grad():
            return list(self._intermediates(images, **options))


def load_timm(request: BackboneRequest) -> TimmBackbone:
    """Build a timm model, load its weights and freeze it.

    Raises:
        InputError: no such model, arguments it does not take, weights that do not fit or cannot be fetched, or
            a model that does not give its blocks' outputs.
    """
    _check_name(request)
    weights, metadata = load_checkpoint(request.checkpoint) if request.checkpoint else ({}, {})
    module = _create(request)
    ignored, resized = list[str](), False
    if request.checkpoint:
        converted = _converted(weights, module, request.checkpoint)
        ignored = load_weights(module, converted, request.checkpoint)
        resized = "pos_embed" in weights and converted["pos_embed"].shape != weights["pos_embed"].shape
    module.eval().requires_grad_(False)
    if not hasattr(module, "forward_intermediates"):
        raise InputError(f"timm model {request.name!r} does not give its blocks' outputs (no forward_intermediates)")
    transform = _transform(module, request, metadata)
    try:
        backbone = TimmBackbone(f"timm:{_portable(request.name)}", module, request.arguments, transform)
    except Exception as error:  # any of timm's models, with any arguments
        raise InputError(
            f"timm model {request.name!r} with {dict(request.arguments)} cannot give its blocks' tokens for images of "
            f"3 channels and {transform.input_size} pixels: {_reason(error)}"
        ) from error
    backbone.ignored, backbone.resized = ignored, resized
    return backbone


def _check_name(request: BackboneRequest) -> None:
    if request.name.startswith(HUB_FORMS) or timm.is_model(request.name.split(".")[0]):
        return
    if _architecture(request.name) is None:
        raise unknown_name("timm model", request.name, timm.list_models())
    if request.pretrained and request.checkpoint is None:
        raise InputError(
            f"timm architecture {request.name!r} has no published weights; give --checkpoint or --no-pretrained"
        )


def _architecture(name: str) -> type[nn.Module] | None:
    """Return a class of timm's, such as VisionTransformer, for models that have no name in timm."""
    found = getattr(timm.models, name, None)
    return found if inspect.isclass(found) and issubclass(found, nn.Module) else None


def _create(request: BackboneRequest) -> nn.Module:
    arguments = {"num_classes": 0, **request.arguments}
    architecture = _architecture(request.name)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            if architecture is not None:
                return architecture(**arguments)
            download = request.pretrained and request.checkpoint is None
            return timm.create_model(request.name, pretrained=download, **arguments)
    except (OSError, HfHubHTTPError) as error:
        raise InputError(
            f"the weights of timm model {request.name!r} could not be fetched ({_reason(error)}); "
            "give a local file with --checkpoint, or --no-pretrained"
        ) from error
    except TypeError as error:
        raise InputError(f"timm model {request.name!r} does not take {request.arguments}: {_reason(error)}") from error
    except Exception as error:  # any of timm's models, with any arguments
        raise InputError(f"timm model {request.name!r} cannot be built: {_reason(error)}") from error


def _converted(weights: Mapping[str, Tensor], module: nn.Module, path: Path) -> Mapping[str, Tensor]:
    """Apply the conversion that timm keeps beside an architecture: names, position tables of another grid."""
    name = "patch_embed.proj.weight"
    own, given = module.state_dict().get(name), weights.get(name)
    if own is not None and given is not None and own.ndim == given.ndim and own.shape != given.shape:
        raise InputError(  # timm would resample the patches without a word
            f"checkpoint {str(path)!r} does not fit: {name!r} is {tuple(given.shape)} there and {tuple(own.shape)} in "
            "the backbone; check --model and --model-arg"
        )
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    try:
        converted: Mapping[str, Tensor] = convert(dict(weights), module) if convert else weights
    except Exception as error:  # it takes the weights for those of its architecture
        raise InputError(
            f"checkpoint {str(path)!r} does not fit: {type(error).__name__} {_reason(error)}; "
            "check --model and --model-arg"
        ) from error
    return converted


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
    size = getattr(getattr(module, "patch_embed", None), "img_size", None) or request.arguments.get("img_size")
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


def _as_tokens(output: Any) -> Tokens:
    if isinstance(output, tuple):
        return output[0], output[1] if output[1].shape[1] else None
    return (output.flatten(2).transpose(1, 2) if output.ndim == 4 else output), None


def _shape(output: Any, n_prefix: int, module: nn.Module) -> LayerShape:
    """Return the shape of one layer's tokens from the output for one image."""
    if not isinstance(output, tuple) and output.ndim == 4:
        return LayerShape((output.shape[2], output.shape[3]), output.shape[1], 0)
    patch, _ = _as_tokens(output)
    height, width = module.patch_embed.grid_size  # type: ignore[union-attr, misc]
    return LayerShape((int(height), int(width)), patch.shape[2], n_prefix)


def _prefix_names(module: nn.Module, n_prefix: int) -> list[str]:
    """Name the prefix tokens: class, then distillation, then registers."""
    named = [name for name in ("cls", "dist") if getattr(module, f"{name}_token", None) is not None][:n_prefix]
    return named + [f"reg{index}" for index in range(n_prefix - len(named))]


def _portable(name: str) -> str:
    """Drop the folders of a local model's path: a manifest holds no absolute path."""
    return "local-dir:" + name.rstrip("/").rsplit("/", 1)[-1] if name.startswith("local-dir:") else name


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
