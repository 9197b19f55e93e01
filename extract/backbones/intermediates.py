"""Outputs of a model's blocks and their shapes, read through its own `forward_intermediates` or by hooks."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers.norm import RmsNorm, RmsNorm2d
from torch import Tensor, nn

from ...store.layout import LayerShape
from .contract import Tokens
from .hooks import BlockHooks

RMS_NORMS = (RmsNorm, RmsNorm2d, nn.RMSNorm)
FINAL_NORMS = ("norm", "fc_norm", "head.norm")
"""timm's names of the last norm: over all tokens, or over the pooled token if pooling comes first."""


class Intermediates(ABC):
    """The outputs of a model's layers, in one form for all models.

    Models that work on tokens return them with their prefix, (B, N, D). All others return maps, (B, D, H, W), which are
    flattened row by row.
    """

    def __init__(self, module: nn.Module, *, of_tokens: bool) -> None:
        """Note the model's device and the form of its outputs.

        Args:
            module: the model, on its device.
            of_tokens: whether its layers return tokens instead of maps.
        """
        self._device, self._is_of_tokens = device_of(module), of_tokens

    def __call__(self, images: Tensor, layers: list[int]) -> list[Tokens]:
        """Run the model on (B, 3, H, W) images; return patch and prefix tokens of each layer, before any norm."""
        return self.with_output(images, layers, whole=False)[0]

    def with_output(self, images: Tensor, layers: list[int], *, whole: bool = True) -> tuple[list[Tokens], Any]:
        """Run the whole model; return its final output too.

        The final output is `forward_features` of a timm model, (B, N, D) or (B, D, H, W), or the embedding (B, D) of an
        open_clip tower. `layers` must include the last layer.
        """
        if not self._is_of_tokens:  # convolutions are faster in channels_last, which is also the layout of tokens
            images = images.contiguous(memory_format=torch.channels_last)
        outputs, final = self._run(images, layers, "NLC" if self._is_of_tokens else "NCHW", whole=whole)
        return [_split(output) for output in outputs], final

    def shapes(self, input_size: tuple[int, int]) -> list[LayerShape]:
        """Run the model on one image of (height, width), on its own device; return the shape of every layer."""
        outputs, _ = self._run(torch.zeros(1, 3, *input_size, device=self._device), None, "NCHW")
        return [
            map_shape(output[0], output[1].shape[1]) if isinstance(output, tuple) else map_shape(output, 0)
            for output in outputs
        ]

    @abstractmethod
    def _run(
        self, images: Tensor, layers: list[int] | None, form: str, *, whole: bool = False
    ) -> tuple[list[Any], Any]:
        """Run the model; return the outputs of some layers (of all if None), and its final one if `whole`."""


class TimmIntermediates(Intermediates):
    """A timm model's `forward_intermediates`, the same method for all timm models."""

    def __init__(self, module: nn.Module) -> None:
        """See `Intermediates`."""
        self._forward: Callable[..., Any] = getattr(module, "forward_intermediates")  # noqa: B009
        super().__init__(module, of_tokens="return_prefix_tokens" in inspect.signature(self._forward).parameters)
        self._has_prefix = self._is_of_tokens and getattr(module, "num_prefix_tokens", 1) > 0

    def _run(
        self, images: Tensor, layers: list[int] | None, form: str, *, whole: bool = False
    ) -> tuple[list[Any], Any]:
        options = {"return_prefix_tokens": True} if self._has_prefix else {}
        with torch.no_grad():
            given = self._forward(
                images,
                indices=layers,
                norm=False,
                stop_early=True,
                output_fmt=form,
                intermediates_only=not whole,
                **options,
            )
        final, outputs = given if whole else (None, given)
        return list(outputs), final


class HookedStages(Intermediates):
    """Hooks on the modules that a timm model's `feature_info` names, for models without `forward_intermediates`.

    A module's output is a map, channels first or last, or (B, prefix + patches, dim) with the prefix first.
    """

    def __init__(self, module: nn.Module) -> None:
        """See `Intermediates`."""
        super().__init__(module, of_tokens=False)
        self._stages: list[dict[str, Any]] = list(getattr(module, "feature_info"))  # noqa: B009
        self._hooks = BlockHooks(module, [module.get_submodule(stage["module"]) for stage in self._stages])
        self._n_prefix = int(getattr(module, "num_prefix_tokens", 0))

    def _run(
        self, images: Tensor, layers: list[int] | None, form: str, *, whole: bool = False
    ) -> tuple[list[Any], Any]:
        layers = list(range(len(self._stages))) if layers is None else layers
        outputs = self._hooks(images, layers)
        return [self._as_map(x, self._stages[i], images) for x, i in zip(outputs, layers, strict=True)], None

    def _as_map(self, output: Tensor, stage: dict[str, Any], images: Tensor) -> Any:
        if output.ndim == 4:
            return output if output.shape[1] == stage["num_chs"] else output.permute(0, 3, 1, 2)
        height, width = (side // stage["reduction"] for side in images.shape[2:])
        patch = output[:, self._n_prefix :].transpose(1, 2).unflatten(2, (height, width))
        return (patch, output[:, : self._n_prefix]) if self._n_prefix else patch


def intermediates_of(module: nn.Module) -> Intermediates | None:
    """Return a reader for a timm model's blocks, or None if the model does not describe them."""
    if hasattr(module, "forward_intermediates"):
        return TimmIntermediates(module)
    stages = getattr(module, "feature_info", None)
    names_modules = isinstance(stages, list) and bool(stages) and all(stage.get("module") for stage in stages)
    return HookedStages(module) if names_modules else None


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's weights, which is "meta" if it was built for its shapes alone."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def _split(output: Any) -> Tokens:
    patch, prefix = output if isinstance(output, tuple) else (output, None)
    return flat_map(patch), prefix


def flat_map(output: Tensor) -> Tensor:
    """Turn (B, D, H, W) into (B, H·W, D), row by row; leave (B, N, D) as it is."""
    return output.flatten(2).transpose(1, 2) if output.ndim == 4 else output


def map_shape(output: Tensor, n_prefix: int) -> LayerShape:
    """Return the shape of a layer from its map (B, D, H, W) and its number of prefix tokens."""
    return LayerShape((output.shape[2], output.shape[3]), output.shape[1], n_prefix)


def norm_values(norms: Sequence[nn.Module | None]) -> dict[str, Any] | None:
    """Return kind, eps, weight and bias of the first norm over channels, as JSON values, or None if there is none."""
    for norm in norms:
        kind = "LayerNorm" if isinstance(norm, nn.LayerNorm) else "RMSNorm" if isinstance(norm, RMS_NORMS) else None
        if kind is not None:
            given = {key: getattr(norm, key, None) for key in ("weight", "bias")}
            values = {key: None if p is None else p.detach().float().tolist() for key, p in given.items()}
            return {"kind": kind, "eps": getattr(norm, "eps"), **values}  # noqa: B009
    return None


def final_norm_of(module: nn.Module) -> dict[str, Any] | None:
    """Return the values of a timm model's last norm, or None if it has no norm over channels."""
    named = dict(module.named_modules())
    return norm_values([named.get(name) for name in FINAL_NORMS])


def prefix_names(module: nn.Module, n_prefix: int) -> list[str]:
    """Name the prefix tokens: class, then distillation, then registers."""
    own = {name.rpartition(".")[2] for name, _ in module.named_parameters()}
    named = [name for name in ("cls", "dist") if f"{name}_token" in own][:n_prefix]
    return named + [f"reg{index}" for index in range(n_prefix - len(named))]
