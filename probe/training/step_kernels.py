"""The Triton kernels of `fused_step.py`: the cross-entropy of many rows, and an optimizer's step for many cells."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, disable-error-code="untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def _place(labels_ptr, label_outer, label_inner, n_inner, N_CLASSES):
    """Return the row of this program, its offset among the logits, and its label."""
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_ptr + row // n_inner * label_outer + row % n_inner * label_inner)
    return row, row * N_CLASSES, label


@triton.jit
def cross_entropy(  # noqa: PLR0913
    logits_ptr, labels_ptr, label_outer, label_inner, losses_ptr, most_ptr, total_ptr, n_inner,
    N_CLASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the loss of a row, its largest logit, and the sum of exp(logit − largest)."""
    row, start, label = _place(labels_ptr, label_outer, label_inner, n_inner, N_CLASSES)
    most, total = tl.full((), -float("inf"), tl.float32), tl.zeros((), tl.float32)
    for first in range(0, N_CLASSES, BLOCK):
        index = first + tl.arange(0, BLOCK)
        logits = tl.load(logits_ptr + start + index, mask=index < N_CLASSES, other=-float("inf")).to(tl.float32)
        larger = tl.maximum(most, tl.max(logits, 0))
        total = total * tl.exp(most - larger) + tl.sum(tl.exp(logits - larger), 0)
        most = larger
    of_label = tl.load(logits_ptr + start + label).to(tl.float32)
    tl.store(losses_ptr + row, tl.log(total) - (of_label - most))
    tl.store(most_ptr + row, most)
    tl.store(total_ptr + row, total)


@triton.jit
def cross_entropy_backward(  # noqa: PLR0913
    logits_ptr, labels_ptr, label_outer, label_inner, most_ptr, total_ptr, g_ptr, g_outer, g_inner, n_inner,
    N_CLASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Overwrite the logits with their gradient, (softmax − one-hot) · g; g is the gradient of the row's loss."""
    row, start, label = _place(labels_ptr, label_outer, label_inner, n_inner, N_CLASSES)
    most = tl.load(most_ptr + row)
    g = tl.load(g_ptr + row // n_inner * g_outer + row % n_inner * g_inner)
    of_total = 1 / tl.load(total_ptr + row)
    for first in range(0, N_CLASSES, BLOCK):
        index = first + tl.arange(0, BLOCK)
        place = logits_ptr + start + index
        logits = tl.load(place, mask=index < N_CLASSES, other=-float("inf")).to(tl.float32)
        p = tl.exp(logits - most) * of_total
        found = (p - (index == label).to(tl.float32)) * g
        tl.store(place, found.to(logits_ptr.dtype.element_ty), mask=index < N_CLASSES)


@triton.jit
def momentum_step(
    parameter_ptr, momentum_ptr, gradient_ptr, trust_ptr, factor_ptr, n_numbers,
    MOMENTUM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Make the step for a block of a cell's parameter: m <- MOMENTUM m + trust g, p <- p + factor m."""
    cell = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    place, is_there = cell * n_numbers + index, index < n_numbers
    gradient = tl.load(gradient_ptr + place, mask=is_there)
    if trust_ptr is not None:
        gradient *= tl.load(trust_ptr + cell)
    momentum = MOMENTUM * tl.load(momentum_ptr + place, mask=is_there) + gradient
    tl.store(momentum_ptr + place, momentum, mask=is_there)
    parameter = tl.load(parameter_ptr + place, mask=is_there) + tl.load(factor_ptr + cell) * momentum
    tl.store(parameter_ptr + place, parameter, mask=is_there)
