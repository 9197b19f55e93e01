"""The gradient of linear heads in closed form, for processors.

A pooling without weights gives all cells the same features. Let z (B, O) be these after the head's BatchNorm. With
p = softmax(z Wᵀ + b) of one cell, and the labels' one-hot rows y, its mean loss over the batch has the gradients

    by W: (p - y)ᵀ z / B,        by b: the column sums of (p - y) / B.

Autograd takes twice as long for a small step. It also makes the logits of all cells at once; with many classes they
leave the processor's cache. Here a few cells take their turn at a time.

    B images, O features, H cells, h of them at a time, C classes
"""

import torch
from torch import Tensor

from ..heads import Head

CACHED = 1 << 18
"""Logits at a time for each thread: 1 MiB in float32."""


def is_linear(head: Head, labels: Tensor) -> bool:
    """Return whether `set_gradients` serves a head and its labels. It knows neither autocast nor weights of classes."""
    norm = head.pooling.classifier_norm
    has_weights = not head.pooling.shared or (norm is not None and norm.affine)
    return not has_weights and labels.ndim == 1 and head.weight.device.type == "cpu"


@torch.no_grad()
def set_gradients(head: Head, x_BND: Tensor, labels: Tensor) -> Tensor:
    """Set the gradients of a linear head's parameters, and return the mean loss of each cell, (H,).

    Args:
        head: for which `is_linear` holds.
        x_BND: tokens, as for the head.
        labels: (B,) int64.
    """
    z_BO, (n_cells, n_classes, width) = head.features(x_BND)[:, 0], head.weight.shape
    at_once = max(1, CACHED * torch.get_num_threads() // (len(labels) * n_classes))
    if at_once >= n_cells:
        losses_H, *gradients = _gradients(z_BO, head.weight, head.bias, labels)
    else:
        losses_H, *gradients = (torch.empty_like(each) for each in (head.bias[:, 0], head.weight, head.bias))
        for part in (slice(first, first + at_once) for first in range(0, n_cells, at_once)):
            target_XO = gradients[0][part].view(-1, width)
            losses_H[part], _, gradients[1][part] = _gradients(
                z_BO, head.weight[part], head.bias[part], labels, target_XO
            )
    head.weight.grad, head.bias.grad = gradients
    return losses_H


def _gradients(
    z_BO: Tensor, weight_hCO: Tensor, bias_hC: Tensor, labels: Tensor, target_XO: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses (h,) and the gradients (h, C, O) and (h, C); the former in `target_XO`, (h·C, O), if given."""
    share, places_Bh1 = 1 / len(labels), labels.view(-1, 1, 1).expand(-1, len(bias_hC), 1)
    logits_BX = torch.addmm(bias_hC.view(-1), z_BO, weight_hCO.view(-1, z_BO.shape[1]).t())
    log_p_BhC = logits_BX.view(len(labels), *bias_hC.shape).log_softmax(2)
    losses_h = log_p_BhC.gather(2, places_Bh1).sum((0, 2)).mul_(-share)
    residual_BhC = log_p_BhC.exp_().scatter_(2, places_Bh1, -1, reduce="add")
    by_weight_XO = torch.mm(residual_BhC.view(logits_BX.shape).t(), z_BO * share, out=target_XO)
    return losses_h, by_weight_XO.view(weight_hCO.shape), residual_BhC.sum(0).mul_(share)
