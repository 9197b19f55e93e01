"""Conversion of tensors to another type, as autocast does on a GPU, at memory speed.

torch's kernels that copy between float16, bfloat16 and float32 take one number at a time, up to three times slower than
memory allows. The kernel of `_foreach_copy_` takes four numbers at a time, and rounds in the same way.
"""

import torch
from torch import Tensor

MOST_NUMBERS = 2**30
"""Most numbers that one kernel copies: it counts them in 32 bits."""


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
    """Copy values into a tensor of another type."""
    n_rows = max(1, MOST_NUMBERS // max(1, values[0].numel()))
    torch._foreach_copy_(list(target.split(n_rows)), list(values.split(n_rows)))
