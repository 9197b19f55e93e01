"""Checks whether tensors can be weights of a backbone. Torch would cast others silently, or fail halfway."""

import torch
from torch import Tensor, nn

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool)

SAVE_AS_FLOATS = "save the weights as float16, bfloat16, float32 or float64 with the program that wrote them"
"""Advice for tensors that can be no weights."""


def fault_of(tensor: Tensor, own: Tensor | None) -> str:
    """Describe why a tensor of a file cannot be a weight; return "" if it can.

    Args:
        tensor: tensor in the file.
        own: the backbone's weight of that name, or None if it has none.
    """
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"a {type(tensor).__name__} instead of a plain tensor"
    if tensor.is_meta:
        return "without values, on torch's meta device"
    if tensor.is_quantized:
        return f"quantized, {tensor.dtype}"
    if tensor.layout != torch.strided:
        return f"sparse, {tensor.layout}"
    counts = own is not None and not own.is_floating_point()
    if tensor.dtype in FLOATS or (counts and tensor.dtype in INTEGERS):
        return ""
    return f"complex, {tensor.dtype}" if tensor.is_complex() else f"of type {tensor.dtype}"


def is_finite(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Return whether all values are finite after a cast to the backbone's type, which may have fewer bits."""
    return bool(tensor.to(dtype).isfinite().all())
