"""Tensors in another type, as autocast makes them on a GPU, at the speed of memory.

torch's kernels that copy between float16, bfloat16 and float32 take one number at a time, and up to three times as long
as memory does. That of `_foreach_copy_` takes four, and rounds alike.
"""

import torch
from torch import Tensor

MOST_NUMBERS = 2**30
"""Copied by one kernel: it counts them in 32 bits."""


def rounds(values: Tensor) -> bool:
    """Return whether autocast rounds products of these values, on a GPU."""
    return (
        values.device.type == "cuda"
        and torch.is_autocast_enabled("cuda")
        and values.dtype != torch.float64
        and not torch.compiler.is_exporting()
    )


def convert(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return values in another type, or the same tensor if they have it."""
    if values.dtype == dtype:
        return values
    converted = torch.empty_like(values, dtype=dtype)
    convert_into(converted, values)
    return converted


def convert_into(target: Tensor, values: Tensor) -> None:
    """Copy values into those of another type."""
    n_rows = max(1, MOST_NUMBERS // max(1, values[0].numel()))
    torch._foreach_copy_(list(target.split(n_rows)), list(values.split(n_rows)))
