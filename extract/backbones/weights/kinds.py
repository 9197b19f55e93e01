"""Which tensors can be weights of a backbone. Torch would cast others without a word, or fail in the middle."""

import torch
from torch import Tensor, nn

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool)


def fault_of(tensor: Tensor, own: Tensor | None) -> str:
    """Return in words why a tensor of a file cannot be a weight; "" if it can.

    Args:
        tensor: in the file.
        own: the backbone's weight of that name, or None if it has none.
    """
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"a {type(tensor).__name__} and no plain tensor"
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
    """Return whether all values are finite, also in a type of fewer bits that the backbone may have."""
    return bool(tensor.to(dtype).isfinite().all())
