"""The one-pass parts of a step, as a script for Triton's interpreter: their errors against float64, as JSON.

`TRITON_INTERPRET=1 python step_kit.py` runs the kernels on the CPU.
"""

import json

import torch
from torch import Tensor

from tokenprobe.probe.training import fused_step, optim
from tokenprobe.probe.training.losses import cell_losses

LOGITS = [
    (dtype, order, n_classes)
    for dtype in ("float32", "float16")
    for order in ("by_image", "by_cell")
    for n_classes in (2, 37, 1000, 2 * fused_step.MOST_CLASSES + 1)
]
OPTIMIZERS = ("lars", "sgd")


def losses_and_gradients(logits: Tensor, labels: Tensor, *, fuse: bool) -> tuple[Tensor, Tensor]:
    """Return the losses of cells, and the gradient of a weighted sum of them."""
    fused_step.can_fuse = lambda values: fuse
    logits = logits.detach().requires_grad_()
    losses = cell_losses(logits * 1, labels)
    (losses * torch.tensor([1.0, -2.0, 0.5])).sum().backward()
    assert logits.grad is not None
    return losses.detach(), logits.grad


def of_logits(dtype: str, order: str, n_classes: int) -> list[object]:
    """Return the errors of losses and gradient, largest of all numbers, and whether types are right."""
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(7, 3, n_classes, generator=generator)).to(getattr(torch, dtype))
    if order == "by_cell":
        logits = logits.transpose(0, 1).contiguous().transpose(0, 1)
    labels = torch.randint(n_classes, (7,), generator=generator)
    found = losses_and_gradients(logits, labels, fuse=True)
    exact = losses_and_gradients(logits.double(), labels, fuse=False)
    errors = [float((ours.double() - theirs).abs().max()) for ours, theirs in zip(found, exact, strict=True)]
    return [*errors, found[0].dtype == torch.float32 and found[1].dtype == logits.dtype]


def with_a_lost_cell() -> list[bool]:
    """Return whether a cell without finite logits leaves the others bit-equal, and loses itself."""
    logits, labels = torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 5
    before = losses_and_gradients(logits, labels, fuse=True)
    logits[:, 1] = torch.nan
    after = losses_and_gradients(logits, labels, fuse=True)
    same = [torch.equal(before[0][[0, 2]], after[0][[0, 2]]), torch.equal(before[1][:, [0, 2]], after[1][:, [0, 2]])]
    return [*same, bool(after[0][1].isnan() and after[1][:, 1].isnan().all())]


def course(name: str, dtype: torch.dtype, *, fuse: bool) -> list[Tensor]:
    """Return parameters and moments after five steps of three cells, of parameters of one block, of several, a bias."""
    vars(optim)["can_fuse"] = lambda values: fuse
    generator = torch.Generator().manual_seed(0)
    shapes = [(50, 90), (2, 3, 4), (6,)]

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(3, *shape, dtype=torch.float64, generator=generator).to(dtype)

    parameters = [draw(shape).requires_grad_() for shape in shapes]
    optimizer = optim.OPTIMIZERS[name](parameters, torch.tensor([0.0, 0.1, 0.003], dtype=dtype))
    for step in range(5):
        for parameter, shape in zip(parameters, shapes, strict=True):
            parameter.grad = draw(shape)
        optimizer.step(torch.tensor([0.3, 0.01, 2.0], dtype=dtype) * step)
    return [values.detach().double() for values in (*parameters, *optimizer.moments())]


def of_optimizer(name: str) -> list[float]:
    """Return the errors of all parameters and moments, relative to their norms."""
    found, exact = course(name, torch.float32, fuse=True), course(name, torch.float64, fuse=False)
    return [float((ours - theirs).norm() / theirs.norm()) for ours, theirs in zip(found, exact, strict=True)]


def main() -> None:
    """Print what the tests ask for."""
    torch.set_num_threads(1)
    print(
        json.dumps(
            {
                "logits": [of_logits(*case) for case in LOGITS],
                "lost": with_a_lost_cell(),
                "optimizers": [of_optimizer(name) for name in OPTIMIZERS],
            }
        )
    )


if __name__ == "__main__":
    main()
