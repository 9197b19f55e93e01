"""From a layer's output to the arrays that the store keeps of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import InputError
from ..store.layout import MEAN, PATCH, PREFIX


def stored_arrays(
    patch: Tensor, prefix: Tensor | None, kinds: Sequence[str], dtype: str, layer: int, ids: Sequence[str]
) -> dict[str, npt.NDArray[Any]]:
    """Convert one batch of one layer.

    Args:
        patch: (B, patches, dim).
        prefix: (B, prefix, dim) or None.
        kinds: arrays wanted: "patch" and "prefix" in `dtype`, "mean" (B, dim) in float32 before any rounding.
        dtype: "float16" or "float32".
        layer: index, for the error.
        ids: of the B images, for the error.

    Raises:
        InputError: a token does not fit `dtype`, or is not finite to begin with; names layer and image.
    """
    target = getattr(torch, dtype)
    arrays = {}
    for kind in kinds:
        values = patch.float().mean(1) if kind == MEAN else {PATCH: patch, PREFIX: prefix}[kind]
        assert values is not None, kind
        rounded = values.to(torch.float32 if kind == MEAN else target).contiguous()
        if not torch.isfinite(rounded).all():
            raise _not_finite(values, rounded, dtype, layer, ids)
        arrays[kind] = np.asarray(rounded.cpu())
    return arrays


def _not_finite(values: Tensor, rounded: Tensor, dtype: str, layer: int, ids: Sequence[str]) -> InputError:
    worst = int((~torch.isfinite(rounded)).flatten(1).any(1).nonzero()[0])
    where = f"layer {layer}, image {ids[worst]!r}"
    if not torch.isfinite(values[worst]).all():
        return InputError(f"the backbone gave a value that is not finite ({where}); try --amp off")
    largest = float(values[worst].abs().max())
    return InputError(f"a token of {largest:.4g} does not fit {dtype} ({where}); store with --dtype float32")
