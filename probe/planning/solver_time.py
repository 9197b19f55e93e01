"""How long heads that are fitted at once take: the operations they count, at the speed of a product on the machine."""

import time
from functools import cache

import torch

from ..grid.cells import CellGroup, make_solver
from ..heads import build_pooling
from .plan import Plan

SIDE = 1024
"""Of the matrices that are multiplied to time the machine: as large as those of a narrow layer."""


def solver_seconds(plan: Plan, group: CellGroup, device: torch.device) -> float:
    """Guess the seconds that a solver takes to fit its cells and to score them on held-out and test images."""
    solver, regime, shape = make_solver(group.cells), group.regime, plan.input_shape(group.cells[0])
    width = build_pooling("linear", dim=shape.dim, grid=shape.grid, pool=solver.pool).out_dim
    n_scored = len(regime.val_rows) + len(plan.data.test)
    work = solver.work(len(regime.train_rows), n_scored, width, plan.data.n_classes)
    return work.fit / operations_per_second(device, solver.fit_dtype) + work.scores / operations_per_second(
        device, torch.float32
    )


@cache
def operations_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Time the product of two square matrices."""
    matrix = torch.ones(SIDE, SIDE, dtype=dtype, device=device)
    seconds = 0.0
    for _ in range(2):  # the first loads the library
        start = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # waits for the device
        seconds = time.perf_counter() - start
    return 2 * SIDE**3 / seconds
