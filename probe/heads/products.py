"""Matrix products of stacked cells, one matrix per cell.

Under autocast on a GPU, these products round factors and gradients as torch does, with fewer passes through memory.
torch's own rounding kernel takes one number at a time, and torch copies gradients of transposed matrices to give them
the matrices' memory layout.

    H cells, B images, I input, O output
"""

from typing import Any

import torch
from torch import Tensor

from .rounding import convert, rounds


def apply_linear(y_HBI: Tensor, weight_HOI: Tensor, bias_HO: Tensor | None = None, *, by_image: bool = False) -> Tensor:
    """Return every cell's weight · y + bias, (H, B, O).

    Args:
        y_HBI: vectors.
        weight_HOI: matrices.
        bias_HO: added, or None.
        by_image: on a GPU, order the result in memory by image, not by cell.
    """
    if rounds(y_HBI):
        found_HBO: Tensor = _Product.apply(y_HBI, weight_HOI, bias_HO, by_image)
        return found_HBO
    if bias_HO is None:
        return torch.bmm(y_HBI, weight_HOI.transpose(1, 2))
    return torch.baddbmm(bias_HO[:, None], y_HBI, weight_HOI.transpose(1, 2))


class _Product(torch.autograd.Function):
    """`apply_linear` under autocast on a GPU. The gradient has the memory layout of the matrices."""

    @staticmethod
    def forward(ctx: Any, y_HBI: Tensor, weight_HOI: Tensor, bias_HO: Tensor | None, by_image: bool) -> Tensor:
        dtype = torch.get_autocast_dtype(y_HBI.device.type)
        ctx.dtypes = y_HBI.dtype, weight_HOI.dtype, None if bias_HO is None else bias_HO.dtype
        y_HBI, weight_HOI = convert(y_HBI, dtype), convert(weight_HOI, dtype)
        ctx.save_for_backward(y_HBI, weight_HOI)
        (n_cells, n_images, _), n_outputs = y_HBI.shape, weight_HOI.shape[1]
        if by_image:
            found_HBO = y_HBI.new_empty(n_images, n_cells, n_outputs).transpose(0, 1)
        else:
            found_HBO = y_HBI.new_empty(n_cells, n_images, n_outputs)
        if bias_HO is None:
            return torch.bmm(y_HBI, weight_HOI.transpose(1, 2), out=found_HBO)
        return torch.baddbmm(convert(bias_HO, dtype)[:, None], y_HBI, weight_HOI.transpose(1, 2), out=found_HBO)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g_HBO: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        y_HBI, weight_HOI = ctx.saved_tensors
        g_HBO = convert(g_HBO, y_HBI.dtype)
        of_y, of_weight, of_bias = ctx.dtypes
        dy_HBI = dweight_HOI = dbias_HO = None
        if ctx.needs_input_grad[0]:
            dy_HBI = convert(torch.bmm(g_HBO, weight_HOI, out=torch.empty_like(y_HBI)), of_y)
        if ctx.needs_input_grad[1]:
            dweight_HOI = convert(torch.bmm(g_HBO.transpose(1, 2), y_HBI), of_weight)
        if ctx.needs_input_grad[2]:
            dbias_HO = convert(g_HBO.sum(1), of_bias)
        return dy_HBI, dweight_HOI, dbias_HO, None
