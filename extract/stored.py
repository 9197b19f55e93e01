"""Conversion of a layer's output to the arrays that a store keeps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import InputError
from ..store.layout import EMBEDDING, MEAN, PATCH, PREFIX, SCALE
from ..store.quantize import LEVELS, array_type
from .ahead import wait_for
from .forward import Outputs

FINITE = {"bfloat16": torch.bfloat16, "float32": torch.float32}
"""Types that a token must fit, by dtype. All other dtypes must fit float16: int8 is read as float16."""
SMALLEST_STEP = float(np.finfo(np.float16).smallest_subnormal)


def stored_arrays(
    outputs: Outputs,
    kinds: Sequence[str],
    dtype: str,
    channels: Mapping[str, Tensor],
    layer: int,
    ids: Sequence[str],
) -> dict[str, npt.NDArray[Any]]:
    """Convert one batch of one layer.

    Args:
        outputs: outputs of the layer.
        kinds: wanted arrays: "patch" and "prefix" in `dtype`, with their "_scale" for int8; "mean" (B, dim) and
            "embedding" in float32, before any rounding.
        dtype: "float16", "bfloat16", "float32" or "int8".
        channels: (2, dim) mean and deviation of the channels of "patch" and "prefix", for int8.
        layer: index of the layer, for the error.
        ids: ids of the B images, for the error.

    Raises:
        InputError: a token does not fit `dtype`, or the backbone's output is not finite. The message names layer and
            image.
    """
    arrays: dict[str, Tensor] = {}
    checked: list[tuple[Tensor, Tensor]] = []
    by_kind = {PATCH: outputs.patch, PREFIX: outputs.prefix, EMBEDDING: outputs.embedding}
    for kind in kinds:
        if kind.endswith(SCALE):
            continue  # comes with its tokens
        values = outputs.patch.float().mean(1) if kind == MEAN else by_kind[kind]
        assert values is not None, kind
        stored = array_type(kind, dtype).name
        rounded = values.to(FINITE.get(stored, torch.float16)).contiguous()
        checked.append((values, rounded))
        if stored == "int8":
            arrays[kind], arrays[kind + SCALE] = quantize(values, channels[kind])
            checked.append((values, arrays[kind + SCALE]))
        else:
            arrays[kind] = rounded.view(torch.int16) if stored == "bfloat16" else rounded
    extremes = torch.stack([_extremes(rounded) for _, rounded in checked])
    on_cpu, extremes = _copied(arrays, extremes)
    for (values, rounded), finite in zip(checked, torch.isfinite(extremes).all(1).tolist(), strict=True):
        if not finite:
            raise _not_finite(values, rounded, dtype, layer, ids)
    return {kind: values.numpy().view(array_type(kind, dtype).stored) for kind, values in on_cpu.items()}


def _copied(arrays: Mapping[str, Tensor], extremes: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return copies on the CPU. Copies from a GPU run together into pinned memory, with a single wait at the end."""
    copies = {kind: values.to("cpu", non_blocking=True) for kind, values in arrays.items()}
    of_extremes = extremes.to("cpu", non_blocking=True)
    if extremes.is_cuda:
        wait_for(torch.cuda.current_stream(extremes.device))
    return copies, of_extremes


def quantize(values: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise on any device; bit for bit equal to `tokenprobe.store.quantize.quantize`.

    Args:
        values: (…, dim) tokens.
        channels: (2, dim) float32.

    Returns:
        (…, dim) int8 and (…) float16.
    """
    z = (values.float() - channels[0]) / channels[1]
    scale = (z.abs().amax(-1) / LEVELS).half()
    step = scale.float().clamp_min(SMALLEST_STEP)[..., None]
    return (z / step).round().clamp(-LEVELS, LEVELS).to(torch.int8), scale


def _extremes(values: Tensor) -> Tensor:
    """Return (2,) float32, the smallest and the largest value; both are NaN if any value is NaN.

    On a CPU, `isfinite` of all values takes 6 to 25 times as long.
    """
    return torch.stack(values.aminmax()).float()


def _not_finite(values: Tensor, rounded: Tensor, dtype: str, layer: int, ids: Sequence[str]) -> InputError:
    worst = int((~torch.isfinite(rounded)).flatten(1).any(1).nonzero()[0])
    where = f"layer {layer}, image {ids[worst]!r}"
    if not torch.isfinite(values[worst]).all():
        return InputError(f"the backbone gave a value that is not finite ({where}); try --amp off")
    largest = float(values[worst].abs().max())
    return InputError(f"a token of {largest:.4g} does not fit {dtype} ({where}); store with --dtype bfloat16")
