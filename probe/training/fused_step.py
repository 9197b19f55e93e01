"""Parts of a step that a GPU makes in one pass through memory each; torch's operations take several passes.

The Triton kernels are in `step_kernels.py`. Their launchers are registered with torch as operations, so an estimate of
memory, on tensors without values, takes the path of the real step. Other devices use torch's own operations.

    H cells, B images, C classes; rows: (H, B) or (B, H)
"""

import torch
from torch import Tensor

from ..heads.fused import starts

LIBRARY = torch.library.Library("tokenprobe", "FRAGMENT")
LIBRARY.define("cross_entropy(Tensor logits, Tensor labels) -> (Tensor, Tensor, Tensor)")
LIBRARY.define("cross_entropy_backward_(Tensor(a!) logits, Tensor labels, Tensor most, Tensor total, Tensor g) -> ()")
LIBRARY.define(
    "momentum_step_(Tensor(a!) parameter, Tensor(b!) momentum, Tensor gradient, Tensor? trust, Tensor factor, "
    "float kept) -> ()"
)
MOST_CLASSES = 4096
"""Most classes that a program takes at a time."""
NUMBERS = 2048
"""Numbers of a parameter per program."""


def can_fuse(values: Tensor) -> bool:
    """Return whether these operations accept the values on this machine."""
    return (
        values.device.type == "cuda"
        and values.dtype != torch.float64
        and starts()
        and torch.cuda.get_device_capability(values.device) >= (8, 0)  # older GPUs have no bfloat16
    )


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses of rows, their largest logits, and their sums of exp(logit − largest), in float32.

    Args:
        logits: (…, …, C), contiguous.
        labels: (…, …) int64, of any strides.
    """
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.tokenprobe.cross_entropy(logits, labels)
    return found


def cross_entropy_backward_(logits: Tensor, labels: Tensor, most: Tensor, total: Tensor, g: Tensor) -> None:
    """Write the gradient of the losses over the logits.

    Args:
        logits: as for `cross_entropy`.
        labels: as for `cross_entropy`.
        most: largest logits, as `cross_entropy` returns them.
        total: sums, as `cross_entropy` returns them.
        g: gradient of each loss, in float32, of any strides.
    """
    torch.ops.tokenprobe.cross_entropy_backward_(logits, labels, most, total, g)


def momentum_step_(
    parameter: Tensor, momentum: Tensor, gradient: Tensor, trust: Tensor | None, factor: Tensor, kept: float
) -> None:
    """Update m <- kept · m + trust · gradient, then p <- p + factor · m.

    Args:
        parameter: p, (H, …), contiguous like all the others.
        momentum: m, (H, …).
        gradient: (H, …).
        trust: one per cell, (H,), or None for 1.
        factor: one per cell, (H,).
        kept: the part of the momentum that is kept.
    """
    torch.ops.tokenprobe.momentum_step_(parameter, momentum, gradient, trust, factor, kept)


def _block(n_classes: int) -> int:
    return min(MOST_CLASSES, 1 << max(4, (n_classes - 1).bit_length()))


def _empty_losses(logits: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    losses, most, total = (logits.new_empty(logits.shape[:2], dtype=torch.float32) for _ in range(3))
    return losses, most, total


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from . import step_kernels as kernels

    made, n_classes = _empty_losses(logits, labels), logits.shape[2]
    with torch.cuda.device_of(logits):
        kernels.cross_entropy[(labels.numel(),)](
            logits, labels, *labels.stride(), *made, logits.shape[1], n_classes, _block(n_classes)
        )
    return made


def _cross_entropy_backward(logits: Tensor, labels: Tensor, most: Tensor, total: Tensor, g: Tensor) -> None:
    from . import step_kernels as kernels

    _, n_inner, n_classes = logits.shape
    with torch.cuda.device_of(logits):
        kernels.cross_entropy_backward[(labels.numel(),)](
            logits, labels, *labels.stride(), most, total, g, *g.stride(), n_inner, n_classes, _block(n_classes)
        )


def _momentum_step(
    parameter: Tensor, momentum: Tensor, gradient: Tensor, trust: Tensor | None, factor: Tensor, kept: float
) -> None:
    from . import step_kernels as kernels

    n_numbers = parameter[0].numel()
    with torch.cuda.device_of(parameter):
        kernels.momentum_step[(-(-n_numbers // NUMBERS), len(parameter))](
            parameter, momentum, gradient, trust, factor, n_numbers, kept, NUMBERS
        )


def _nothing(*_: object) -> None:
    """Change nothing: the tensors have no values."""


for _name, _run, _fake in (
    ("cross_entropy", _cross_entropy, _empty_losses),
    ("cross_entropy_backward_", _cross_entropy_backward, _nothing),
    ("momentum_step_", _momentum_step, _nothing),
):
    LIBRARY.impl(_name, _run, "CompositeExplicitAutograd")  # any device: Triton's interpreter runs on CPUs
    torch.library.register_fake(f"tokenprobe::{_name}", _fake, lib=LIBRARY)
