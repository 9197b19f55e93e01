"""The time for heads that are fitted at once: their counted operations, at the speed of a matrix product here."""

import time
from functools import cache

import torch

from ..grid.cells import CellGroup, make_solver
from ..heads import build_pooling
from .plan import Plan

SIDE = 1024
"""Side of the matrices that time the machine: about the width of a narrow layer."""


def solver_seconds(plan: Plan, group: CellGroup, device: torch.device) -> float:
    """Estimate the seconds that a solver takes to fit its cells and score them on held-out and test images."""
    solver, regime, shape = make_solver(group.cells), group.regime, plan.input_shape(group.cells[0])
    width = build_pooling("linear", **shape.of_pooling, pool=solver.pool).out_dim
    n_scored = len(regime.val_rows) + len(plan.data.test)
    work = solver.work(len(regime.train_rows), n_scored, width, plan.data.n_classes)
    return work.fit / operations_per_second(device, solver.fit_dtype) + work.scores / operations_per_second(
        device, torch.float32
    )


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
