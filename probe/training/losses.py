"""Training losses of stacked cells, one per cell.

B images, H cells, C classes; X = B·H rows in either order
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import fused_step


def cell_losses(logits_BHC: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return each cell's mean loss over the batch, (H,), in at least float32.

    Computing the gradient may overwrite the logits.

    Args:
        logits_BHC: (B, H, C) floating point.
        labels: (B,) int64 for the cross-entropy; or (B, C), 1 or 0 per class, for the sigmoid's loss, averaged over
            classes too, as in torch's `binary_cross_entropy_with_logits`.
        class_weights: (C,), for the cross-entropy: an image counts with the weight of its class, and the mean is over
            weights, as in torch's `cross_entropy`. None counts all alike.
    """
    if labels.ndim == 1 and fused_step.can_fuse(logits_BHC):
        return _mean_cross_entropy(_FusedCrossEntropy, logits_BHC, labels, class_weights)
    logits_BHC = logits_BHC.to(torch.promote_types(logits_BHC.dtype, torch.float32))
    if labels.ndim == 2:
        targets_BHC = labels.to(logits_BHC.dtype)[:, None].expand_as(logits_BHC)
        return F.binary_cross_entropy_with_logits(logits_BHC, targets_BHC, reduction="none").mean((0, 2))
    return _mean_cross_entropy(_CrossEntropy, logits_BHC, labels, class_weights)


def _mean_cross_entropy(function: Any, logits_BHC: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    labels_BH = labels[:, None].expand(logits_BHC.shape[:2])
    if logits_BHC.is_contiguous():
        losses_BH: Tensor = function.apply(logits_BHC, labels_BH)
    else:  # most heads make logits cell by cell
        losses_BH = function.apply(logits_BHC.transpose(0, 1), labels_BH.T).T
    if class_weights is None:
        return losses_BH.mean(0)
    weights_B = class_weights.to(losses_BH.dtype)[labels]
    return (weights_B / weights_B.sum()) @ losses_BH


class _CrossEntropy(torch.autograd.Function):
    """-log softmax(z)_y of each row, (…, C) to (…).

    The gradient, softmax(z) - onehot(y), overwrites the kept log softmax. torch's own function makes two more tensors
    of that size; with a thousand classes and many cells they are larger than the weights.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        places = labels[..., None]
        log_softmax = F.log_softmax(logits, -1)
        ctx.save_for_backward(log_softmax, places)
        return -log_softmax.gather(-1, places)[..., 0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_losses: Tensor) -> tuple[Tensor, None]:
        log_softmax, places = ctx.saved_tensors
        of_rows = of_losses[..., None]
        of_logits = log_softmax.exp_().mul_(of_rows)
        return of_logits.scatter_add_(-1, places, -of_rows), None


class _FusedCrossEntropy(torch.autograd.Function):
    """The same loss on a GPU, for logits of any type. The gradient overwrites the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.contiguous()
        losses, most, total = fused_step.cross_entropy(logits, labels)
        ctx.save_for_backward(logits, labels, most, total)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_losses: Tensor) -> tuple[Tensor, None]:
        logits, labels, most, total = ctx.saved_tensors
        of_logits = logits.detach()
        fused_step.cross_entropy_backward_(of_logits, labels, most, total, of_losses)
        return of_logits, None
