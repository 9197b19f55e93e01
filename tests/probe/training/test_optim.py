"""Stacked optimizers against the reference vectors, torch.optim, and formulas on one parameter."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from tokenprobe.probe.training.optim import LARS, OPTIMIZERS, AdamW, MomentumSGD, StackedOptimizer

SHAPES = [(5, 4), (2, 3, 4), (6,)]
RATES = [0.3, 0.01, 2.0]
DECAYS = [0.0, 0.1, 0.003]
NAMES = ["weight", "bias", "queries", "zero_weight"]


def train(
    make: Callable[..., StackedOptimizer], starts: list[Tensor], decays: list[float], steps: list[Any]
) -> list[list[Tensor]]:
    """Return the parameters after each of `steps`, [(rates of the cells, gradients)]."""
    parameters = [start.clone().requires_grad_() for start in starts]
    optimizer = make(parameters, torch.tensor(decays, dtype=starts[0].dtype))
    after = []
    for rates, gradients in steps:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step(torch.tensor(rates, dtype=starts[0].dtype))
        assert all(parameter.grad is None for parameter in parameters)
        after.append([parameter.detach().clone() for parameter in parameters])
    return after


@pytest.mark.parametrize(("run", "decay"), [("wd0", 0.0), ("wd1e-4", 1e-4)])
def test_lars_equals_the_reference_implementation(golden: Path, run: str, decay: float) -> None:
    """One cell alone, and the same cell between two others of other rates and decays."""
    path = golden / "lars.safetensors"
    vectors = load_file(path)
    with safe_open(path, framework="pt") as file:
        rates = json.loads(file.metadata()["lrs"])
    starts = [vectors[f"init/{name}"][None] for name in NAMES]
    gradients = [[vectors[f"grad/{step}/{name}"][None] for name in NAMES] for step in range(len(rates))]
    alone = train(LARS, starts, [decay], [([lr], g) for lr, g in zip(rates, gradients, strict=True)])
    stacked = train(
        LARS,
        [torch.cat([start, start, 2 * start]) for start in starts],
        [0.5, decay, 0.0],
        [([3 * lr, lr, 0.1], [torch.cat([-g, g, 5 * g]) for g in gs]) for lr, gs in zip(rates, gradients, strict=True)],
    )
    for step in range(len(rates)):
        for index, name in enumerate(NAMES):
            expected = vectors[f"{run}/step/{step}/{name}"]
            for found in (alone[step][index][0], stacked[step][index][1]):
                torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7, msg=f"{name} after step {step}")


def test_lars_equals_its_formula_for_each_cell() -> None:
    starts, steps = random_course()
    found = train(LARS, starts, DECAYS, steps)
    for cell, decay in enumerate(DECAYS):
        for index, start in enumerate(starts):
            p, momentum = start[cell].clone(), 0.0
            for number, (rates, gradients) in enumerate(steps):
                direction = gradients[index][cell]
                if p.ndim > 1:
                    direction = direction + decay * p
                    norms = float(p.norm()), float(direction.norm())
                    direction = direction * (0.001 * norms[0] / norms[1] if min(norms) > 0 else 1.0)
                momentum = 0.9 * momentum + direction
                p = p - rates[cell] * momentum
                torch.testing.assert_close(found[number][index][cell], p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (MomentumSGD, lambda p, decay: torch.optim.SGD([p], lr=1, momentum=0.9, weight_decay=decay)),
        (AdamW, lambda p, decay: torch.optim.AdamW([p], lr=1, weight_decay=decay)),
    ],
    ids=["sgd", "adamw"],
)
def test_equals_torchs_optimizer_for_each_cell(ours: type[StackedOptimizer], theirs: Any) -> None:
    starts, steps = random_course()
    found = train(ours, starts, DECAYS, steps)
    for cell, decay in enumerate(DECAYS):
        for index, start in enumerate(starts):
            parameter = start[cell].clone().requires_grad_()
            optimizer = theirs(parameter, decay)
            for number, (rates, gradients) in enumerate(steps):
                optimizer.param_groups[0]["lr"] = rates[cell]
                parameter.grad = gradients[index][cell].clone()
                optimizer.step()
                torch.testing.assert_close(found[number][index][cell], parameter.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_diverging_cell_leaves_its_neighbours_bit_equal(name: str) -> None:
    starts, steps = random_course()
    steady = train(OPTIMIZERS[name], starts, DECAYS, steps)
    for _, gradients in steps:
        for gradient in gradients:
            gradient[1] = torch.nan
    for before, after in zip(steady, train(OPTIMIZERS[name], starts, DECAYS, steps), strict=True):
        for one, other in zip(before, after, strict=True):
            assert torch.equal(one[[0, 2]], other[[0, 2]])
            assert other[1].isnan().all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_without_a_gradient_stays(name: str) -> None:
    parameter = torch.ones(2, 3, requires_grad=True)
    OPTIMIZERS[name]([parameter], torch.ones(2)).step(torch.ones(2))
    assert torch.equal(parameter, torch.ones(2, 3))


def random_course() -> tuple[list[Tensor], list[Any]]:
    """Starts of three cells, and five steps whose rates change like a schedule's."""
    generator = torch.Generator().manual_seed(0)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(3, *shape, dtype=torch.float64, generator=generator)

    starts = [draw(shape) for shape in SHAPES]
    steps = [([factor * rate for rate in RATES], [draw(shape) for shape in SHAPES]) for factor in (0.0, 0.5, 1, 1, 0.2)]
    return starts, steps
