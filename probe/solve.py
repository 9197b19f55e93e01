"""Heads that are not trained by steps: fitted on features in memory, scored once."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .grid import Cell, CellGroup
from .heads import build_pooling
from .heads.linear import ARRAYS
from .metrics import make_counter
from .plan import Plan
from .results import Run
from .rows import cell_columns, cost_columns, save_head
from .select import Scores, score_columns
from .solver import SOLVERS, LinearSolver, Solver
from .split import Rows
from .stream import TokenStream
from .streams import LayerStreams


def solve(plan: Plan, run: Run, group: CellGroup, streams: LayerStreams) -> list[dict[str, Any]]:
    """Fit the cells of one solver, save their heads, and return their rows of the results."""
    start, (course, cells) = time.perf_counter(), group
    solver = SOLVERS[cells[0].head.name](cells)
    features, labels = _features(plan, solver, streams.train(course), course.train_rows)
    solver.fit(features, labels, plan.data.n_classes)
    seconds = (time.perf_counter() - start) / len(cells)
    tests = _scores(plan, solver, streams.test, streams.test_rows)
    vals: Sequence[Scores | None] = [None] * len(cells)
    if len(course.val_rows):
        vals = _scores(plan, solver, streams.val(course), course.val_rows)
    return [
        cell_columns(plan, cell, ARRAYS[solver.pool])
        | score_columns(vals[index], tests[index])
        | {"status": solver.status(index), "train_seconds": seconds}
        | _save(plan, run, solver, cell, index)
        for index, cell in enumerate(cells)
    ]


def _save(plan: Plan, run: Run, solver: Solver, cell: Cell, index: int) -> dict[str, int]:
    """Save the head of a cell, if it has weights, and return what it costs."""
    if not isinstance(solver, LinearSolver):
        return {"n_params": 0}
    kinds = ARRAYS[solver.pool]
    save_head(run, plan, cell, solver.state(index), "linear", solver.pooling, kinds, logits=solver.logits)
    return cost_columns(plan, cell, "linear", solver.pooling, kinds)


def _features(plan: Plan, solver: Solver, stream: TokenStream, rows: Rows) -> tuple[Tensor, Tensor]:
    """Return the pooled features (n, F) float32 of some rows, and their labels, on the training device."""
    shape, kinds = plan.input_shape(solver.cells[0]), ARRAYS[solver.pool]
    pooling = build_pooling("linear", dim=shape.dim, grid=shape.grid, pool=solver.pool)
    parts = [(pooling(batch.joined(kinds, torch.float32)), batch.labels) for batch in stream.in_order(rows, kinds)]
    return torch.cat([features for features, _ in parts]), torch.cat([labels for _, labels in parts])


def _scores(plan: Plan, solver: Solver, stream: TokenStream, rows: Rows) -> Sequence[Scores]:
    """Score every cell on some rows."""
    features, labels = _features(plan, solver, stream, rows)
    counter, done = make_counter(plan.data.n_classes, plan.data.multi_label), 0
    for logits_BHC in solver.scores(features):
        counter.add(logits_BHC, labels[done : done + len(logits_BHC)])
        done += len(logits_BHC)
    return counter.scores()
