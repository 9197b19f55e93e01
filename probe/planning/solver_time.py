"""The time for heads that are fitted at once: their counted operations, at the speed of a matrix product here."""

import time
from functools import cache
from typing import NamedTuple

import torch

from ..grid.cells import CellGroup, make_solver
from ..grid.regimes import Regime
from ..heads import build_pooling
from ..solvers import Solver
from .plan import Plan

SIDE = 1024
"""Side of the matrices that time the machine: about the width of a narrow layer."""


class SolverWork(NamedTuple):
    """Estimated numbers of operations of one solver in one regime.

    Attributes:
        fit: to fit all cells to all training images, in the type `Solver.fit_dtype`.
        left: to score training images by fits without them, in the same type.
        scores: to score other images, in float32.
    """

    fit: float
    left: float
    scores: float


def count_work(solver: Solver, regime: Regime, n_scored: int, width: int, n_classes: int) -> SolverWork:
    """Estimate the operations of a solver on features F wide, which scores m images besides."""
    n_images = len(regime.train_rows)
    fit, scores = solver.work(n_images, n_scored, width, n_classes)
    left = solver.left_out_work(n_images, width, n_classes, regime.n_folds) if regime.n_left_out else 0.0
    return SolverWork(fit, left, scores)


def solver_seconds(plan: Plan, group: CellGroup, device: torch.device) -> float:
    """Estimate the seconds that a solver takes to fit its cells and score them on held-out and test images."""
    solver, regime, shape = make_solver(group.cells), group.regime, plan.input_shape(group.cells[0])
    width = build_pooling("linear", **shape.of_pooling, pool=solver.pool).out_dim
    n_scored = len(plan.data.test) + (0 if regime.n_left_out else len(regime.val_rows))
    work = count_work(solver, regime, n_scored, width, plan.data.n_classes)
    return (work.fit + work.left) / operations_per_second(
        device, solver.fit_dtype
    ) + work.scores / operations_per_second(device, torch.float32)


@cache
def operations_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Time the product of two square matrices, and return its operations per second."""
    matrix = torch.ones(SIDE, SIDE, dtype=dtype, device=device)
    seconds = 0.0
    for _ in range(2):  # the first round loads the library
        start = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # waits for the device
        seconds = time.perf_counter() - start
    return 2 * SIDE**3 / seconds
