"""L-BFGS on stacked functions: against closed forms and scipy, and each function as if alone."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from tokenprobe.probe.solvers.lbfgs import minimise

H, X = 6, 12
GENERATOR = torch.Generator().manual_seed(0)
CURVATURES = 10 ** (4 * torch.rand(H, X, generator=GENERATOR, dtype=torch.float64) - 2)
TARGETS = torch.randn(H, X, generator=GENERATOR, dtype=torch.float64)
STARTS = torch.zeros(H, X, dtype=torch.float64)
Function = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def quadratic(points: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    off = points - TARGETS[numbers]
    return 0.5 * (CURVATURES[numbers] * off.square()).sum(1), CURVATURES[numbers] * off


def flat_sided(points: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """sum log cosh of (x - target) · sqrt(curvature): the slope is bounded, so that first steps go astray."""
    root = CURVATURES[numbers].sqrt()
    z = root * (points - TARGETS[numbers])
    values = (z.abs() + torch.log1p((-2 * z.abs()).exp())).sum(1)
    return values, root * z.tanh()


def coupled(points: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return log sum exp of the row, plus a quadratic whose curvature belongs to the function."""
    tied = CURVATURES[numbers, :1] * points
    return points.logsumexp(1) + 0.5 * (points * tied).sum(1), points.softmax(1) + tied


@pytest.mark.parametrize("function", [quadratic, flat_sided])
def test_the_minimum_is_the_known_one(function: Function) -> None:
    found = minimise(function, STARTS, tolerance=1e-10, max_iterations=500)
    assert (found.gradients <= 1e-10).all() and (found.n_iterations > 1).all()
    torch.testing.assert_close(found.points, TARGETS, rtol=0, atol=1e-7)  # 1e-10 over the least curvature


def test_the_minimum_is_scipys() -> None:
    found = minimise(coupled, STARTS, tolerance=1e-9, max_iterations=500)
    for number in range(H):

        def one(point: np.ndarray, number: int = number) -> tuple[float, np.ndarray]:
            value, gradient = coupled(torch.from_numpy(point)[None], torch.tensor([number]))
            return value.item(), gradient[0].numpy()

        expected = minimize(one, np.zeros(X), jac=True, method="BFGS", options={"gtol": 1e-10})
        np.testing.assert_allclose(found.points[number], expected.x, rtol=0, atol=1e-6)


def test_the_reported_gradient_is_that_at_the_point() -> None:
    found = minimise(flat_sided, STARTS, tolerance=1e-6, max_iterations=3)
    _, gradients = flat_sided(found.points, torch.arange(H))
    torch.testing.assert_close(found.gradients, gradients.abs().amax(1), rtol=1e-12, atol=0)
    assert (found.n_iterations <= 3).all() and (found.gradients > 1e-6).any()


@pytest.mark.parametrize("function", [quadratic, flat_sided, coupled])
def test_each_function_goes_as_if_alone(function: Function) -> None:
    together = minimise(function, STARTS, tolerance=1e-8, max_iterations=500)
    for number in range(H):

        def one(points: Tensor, numbers: Tensor, number: int = number) -> tuple[Tensor, Tensor]:
            return function(points, numbers + number)

        alone = minimise(one, STARTS[:1], tolerance=1e-8, max_iterations=500)
        torch.testing.assert_close(alone.points[0], together.points[number], rtol=1e-12, atol=1e-12)
        assert alone.n_iterations[0] == together.n_iterations[number]


def test_the_ends_are_told_as_they_come_and_a_minimum_takes_no_step() -> None:
    starts = STARTS.clone()
    starts[2] = TARGETS[2]
    told: list[float] = []
    found = minimise(quadratic, starts, tolerance=1e-8, max_iterations=500, tell=told.append)
    assert found.n_iterations[2] == 0 and torch.equal(found.points[2], TARGETS[2])
    assert told[0] == 1 and sum(told) == H and len(told) > 5


def test_a_search_without_end_stops() -> None:
    def endless(points: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(points[:, 0], torch.nan), torch.ones_like(points)

    found = minimise(endless, STARTS, tolerance=1e-8, max_iterations=7)
    assert (found.n_iterations == 0).all() and (found.gradients == 1).all()
