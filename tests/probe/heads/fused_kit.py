"""Fused attention against its formula in float64: as a script for Triton's interpreter, as functions for a GPU.

`TRITON_INTERPRET=1 python fused_kit.py` runs every case on the CPU and prints their errors as JSON.
"""

import json
import sys
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprobe.probe.heads import fused, fused_launch
from tokenprobe.probe.heads.folded import attend_unfused, centred, token_rstd

EPS = 1e-5


class Case(NamedTuple):
    """B images of N tokens D wide, H cells of M maps; `shared` queries or some per image; `normed` tokens."""

    n_images: int
    n_tokens: int
    dim: int
    n_cells: int
    n_maps: int
    shared: bool
    normed: bool
    dtype: str

    def tensors(self, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return tokens with outlier channels, queries, and gradients of z and of the log-sum-exp."""
        generator = torch.Generator().manual_seed(0)
        dtype, maps = getattr(torch, self.dtype), (self.n_cells, self.n_maps)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=torch.float64, generator=generator)

        x = draw(self.n_images, self.n_tokens, self.dim) * torch.linspace(0, 1, self.dim).exp() + 0.5
        u = 2 * draw(1 if self.shared else self.n_images, *maps, self.dim) * self.dim**-0.5
        g, h = draw(self.n_images, *maps, self.dim), draw(self.n_images, *maps)
        return x.to(device, dtype), u.to(device, dtype).requires_grad_(), g.to(device), h.to(device)


INTERPRETED = [
    Case(*sizes, shared, normed, dtype)
    for dtype in ("float32", "float16")
    for sizes, shared, normed in [
        ((2, 196, 96, 3, 7), True, False),
        ((2, 196, 96, 1, 18), True, True),
        ((1, 65, 384, 2, 10), True, False),
        ((3, 49, 104, 1, 33), True, True),
        ((3, 7, 8, 2, 1), True, False),
        ((3, 49, 8, 5, 1), False, True),
        ((2, 65, 96, 1, 65), False, False),
        ((2, 1, 104, 1, 3), False, False),
        ((1, 261, 40, 1, 3), False, True),
        ((1, 17, 24, 2, 100), True, False),
    ]
]


def exact(case: Case, tensors: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return z, the log-sum-exp and the gradient of u, by the formula in float64, map by map."""
    x, u = tensors[0].double(), tensors[1].detach().double().requires_grad_()
    g, h = tensors[2:]
    tokens = F.layer_norm(x, x.shape[-1:], eps=EPS) if case.normed else x
    scores = (tokens[:, None, None] * u[..., None, :]).sum(-1)
    z = (scores.softmax(-1)[..., None] * tokens[:, None, None]).sum(-2)
    lse = scores.exp().sum(-1).log()
    ((z * g).sum() + (lse * h).sum()).backward()
    assert u.grad is not None
    return z.detach(), lse.detach(), u.grad


def fused_results(case: Case, tensors: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same, fused."""
    x, u, g, h = tensors
    rstd = token_rstd(x, EPS) if case.normed else None
    z, lse = fused.attend(x, centred(u) if case.normed else u, rstd)
    (gradient,) = torch.autograd.grad([z, lse], u, [g.to(z.dtype), h.to(lse.dtype)])
    return z.detach(), lse.detach(), gradient


def error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference, relative to that expected; of all alike, relative to 1."""
    return float((found.double() - expected).norm() / max(float(expected.norm()), 1.0))


def errors(case: Case, device: str = "cpu", *, described: bool = True) -> list[float]:
    """Return the errors of z, of the log-sum-exp, and of the gradient of u.

    In the interpreter tiles are copied by descriptors that are made before, or, as for older GPUs, by the kernel.
    """
    if device == "cpu":
        fused_launch.has_descriptors = lambda device: described
    tensors = case.tensors(device)
    pairs = zip(fused_results(case, tensors), exact(case, tensors), strict=True)
    return [error(found, expected) for found, expected in pairs]


def against_unfused(case: Case) -> list[object]:
    """Return the differences of z and u's gradient from torch's own operations, and whether shapes and types agree.

    In half precision both are computed as in training: under autocast, of queries in float32.
    """
    x, u, g, _ = case.tensors()
    u = u.detach().float().requires_grad_()
    rstd = token_rstd(x, EPS) if case.normed else None
    with torch.autocast("cpu", torch.float16, enabled=case.dtype == "float16"):
        ours, theirs = fused.attend(x, centred(u) if case.normed else u, rstd)[0], attend_unfused(x, u, rstd)
    gradients = [torch.autograd.grad(z, u, g.to(z.dtype))[0] for z in (ours, theirs)]
    return [
        error(ours.detach(), theirs.detach().double()),
        error(gradients[0], gradients[1].double()),
        ours.dtype == theirs.dtype and ours.shape == theirs.shape and gradients[0].dtype == torch.float32,
    ]


def in_parts() -> list[object]:
    """Return whether parts of any size give the gradient of all queries at once, shared or per image.

    Few queries have other slices, so that sums are rounded in another order.
    """
    same: list[object] = []
    for case in (INTERPRETED[1], INTERPRETED[6]):
        tensors, whole = case.tensors(), fused.SCORES_BYTES
        expected = fused_results(case, tensors)[2]
        a_query = 4 * case.n_images * case.n_tokens
        for budget in (1, 5 * a_query, 16 * a_query):
            fused.SCORES_BYTES = budget
            same.append(error(fused_results(case, tensors)[2], expected.double()) < 2e-6)
        fused.SCORES_BYTES = whole
    return same


def with_a_lost_cell() -> list[object]:
    """Return whether a cell that is NaN leaves the others what they were, and is NaN itself."""
    case = INTERPRETED[0]
    tensors = case.tensors()
    before = fused_results(case, tensors)
    with torch.no_grad():
        tensors[1][:, 1] = torch.nan
    after = fused_results(case, tensors)
    kept, lost = torch.tensor([0, 2]), torch.tensor([1])
    return [
        *(torch.equal(a[:, kept], b[:, kept]) for a, b in zip(before, after, strict=True)),
        *(bool(values[:, lost].isnan().all()) for values in after),
    ]


def of_low_scores() -> list[float]:
    """Return the errors where all scores are about −300, whose powers are no number of float32."""
    case = INTERPRETED[4]
    x, u, g, h = case.tensors()
    tensors = (1 + 0.01 * x, (u.detach() - 300 / case.dim).requires_grad_(), g, h)
    pairs = zip(fused_results(case, tensors), exact(case, tensors), strict=True)
    return [error(found, expected) for found, expected in pairs]


def main() -> None:
    """Print what the tests ask for."""
    torch.set_num_threads(1)
    found = {
        "starts": fused.starts(),
        "errors": [errors(case) for case in INTERPRETED],
        "errors_without_descriptors": [errors(case, described=False) for case in INTERPRETED],
        "against_unfused": [against_unfused(case) for case in INTERPRETED],
        "of_low_scores": of_low_scores(),
        "in_parts": in_parts(),
        "with_a_lost_cell": with_a_lost_cell(),
        "dynamo": "torch._dynamo" in sys.modules,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
