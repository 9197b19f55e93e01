"""Heads that are fitted at once, on features in memory, and scored once.

In a regime with folds, what selects is measured on the training images: each is scored by a fit without it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...store.order import RowNumbers
from ..batches.layer_set import abbreviated
from ..batches.stream import TokenStream
from ..grid.cells import Cell, CellGroup, make_solver
from ..grid.regimes import Regime
from ..heads import build_pooling
from ..heads.linear import ARRAYS
from ..planning.plan import Plan
from ..planning.solver_time import count_work
from ..run.results import LEFT_OUT, Run
from ..run.selection import Scores, score_columns
from ..solvers import LinearSolver, Solver
from ..solvers.contract import chunk_rows
from ..training.metrics import Counter, make_counter
from ..training.stopwatch import Stopwatch
from .damage import damage_text, damaged_images
from .progress import FitProgress
from .result_rows import HeadForm, cell_columns, cost_columns, predicted_of, save_head
from .streams import LayerStreams


def solve(plan: Plan, run: Run, group: CellGroup, streams: LayerStreams, progress: FitProgress) -> list[dict[str, Any]]:
    """Fit the cells of one solver, save their heads, and return their rows of the results, for `Run.add`.

    Features that are not finite cannot be fitted. Their rows have the status of diverged cells, and no head is saved.

    Raises:
        StoreError: a store was replaced since it was opened.
    """
    (regime, cells), watch = group, Stopwatch(streams.test.device)
    solver, held_out = make_solver(cells), regime.val_rows[: 0 if regime.n_left_out else None]
    n_scored = len(streams.test_rows) + len(held_out)
    name = f"layer {abbreviated(cells[0].layer)}, {solver.name}"
    with progress.part(f"{name} reading", 0, len(regime.train_rows), noun="image"), watch.running():
        train = streams.train(regime), regime.train_rows
        features, labels = pooled_features(plan, cells[0], solver.pool, *train, tell=progress.advance)
        damage = _damage(features)
    work = count_work(solver, regime, n_scored, features.shape[1], plan.data.n_classes)

    def count(stream: TokenStream, rows: RowNumbers) -> Counter:
        found = pooled_features(
            plan, cells[0], solver.pool, stream, rows, tell=lambda _: progress.advance(0, "reading")
        )
        return _count(plan, solver, *found, lambda n_images: progress.advance(work.scores * n_images / n_scored))

    vals: Sequence[Scores | None] = [None] * len(cells)

    with progress.part(name, len(cells), sum(work)):
        if damage:
            plan.data.check_unchanged()
            return [row | {"status": f"diverged: {damage}"} for row in _rows(plan, solver, group, watch)]
        with watch.running():
            if regime.n_left_out:
                vals = _left_out(
                    plan, solver, regime, features, labels, lambda part: progress.advance(work.left * part)
                )
            solver.fit(features, labels, plan.data.n_classes, lambda part: progress.advance(work.fit * part))
        test = count(streams.test, streams.test_rows)
        if len(held_out):
            vals = count(streams.val(regime), regime.val_rows).scores()
    plan.data.check_unchanged()  # all is read, and nothing is written yet
    tests, predicted = test.scores(), test.predicted()
    costs = _save(plan, run, solver, cells)
    rows = [
        row
        | score_columns(vals[index], tests[index])
        | predicted_of(predicted, index)
        | {"status": solver.status(index)}
        | costs
        for index, row in enumerate(_rows(plan, solver, group, watch))
    ]
    progress.scored(rows)
    return rows


def _rows(plan: Plan, solver: Solver, group: CellGroup, watch: Stopwatch) -> list[dict[str, Any]]:
    """Return the columns that do not depend on the outcome, one row per cell. The cells share the time equally."""
    regime, cells = group
    shared = {"train_seconds": watch.seconds / len(cells), "train_cpu_seconds": watch.cpu_seconds / len(cells)}
    within = {"n_val": regime.n_left_out, "selected_on": LEFT_OUT} if regime.n_left_out else {}
    return [cell_columns(plan, cell, ARRAYS[solver.pool], regime) | shared | within for cell in cells]


def pooled_features(
    plan: Plan,
    cell: Cell,
    pool: str,
    stream: TokenStream,
    rows: RowNumbers,
    tell: Callable[[int], None] = lambda n_images: None,
) -> tuple[Tensor, Tensor]:
    """Return the pooled vectors (n, F) float32 of some rows, and their labels, on the training device.

    `tell` is called with the images read since the last call.
    """
    shape, kinds = plan.input_shape(cell), ARRAYS[pool]
    pooling = build_pooling("linear", **shape.of_pooling, pool=pool)
    features, labels = list[Tensor](), list[Tensor]()
    for batch in stream.in_order(rows, kinds):
        features.append(pooling(batch.joined(kinds, torch.float32)))
        labels.append(batch.labels)
        tell(len(batch.labels))
    return torch.cat(features), torch.cat(labels)


def _damage(features: Tensor) -> str | None:
    """Say how many training images have features (n, F) that are not finite. Return None if all are finite."""
    parts = features.split(chunk_rows(features.shape[1]))
    return damage_text((damaged_images([part]) for part in parts), len(features))


def _left_out(
    plan: Plan, solver: Solver, regime: Regime, features: Tensor, labels: Tensor, tell: Callable[[float], None]
) -> Sequence[Scores]:
    """Return the scores of every cell on the training images that have a fold, and the loss if there is one."""
    folds = torch.as_tensor(regime.folds, device=features.device)
    counter = make_counter(plan.data.n_classes, plan.data.multi_label, votes=solver.votes)
    left_MHC, labels = solver.left_out(features, labels, plan.data.n_classes, folds, tell), labels[folds >= 0]
    counter.add(left_MHC, labels)
    losses: Sequence[float | None] = solver.losses(left_MHC, labels) or [None] * len(solver.settings)
    return [
        scores | ({} if loss is None else {"loss": loss}) for scores, loss in zip(counter.scores(), losses, strict=True)
    ]


def _count(plan: Plan, solver: Solver, features: Tensor, labels: Tensor, tell: Callable[[int], None]) -> Counter:
    """Score every cell on features (n, F) with their labels."""
    counter, done = make_counter(plan.data.n_classes, plan.data.multi_label, votes=solver.votes, keeps=True), 0
    for logits_BHC in solver.scores(features):
        counter.add(logits_BHC, labels[done : done + len(logits_BHC)])
        done += len(logits_BHC)
        tell(len(logits_BHC))
    return counter


def _save(plan: Plan, run: Run, solver: Solver, cells: Sequence[Cell]) -> dict[str, int | None]:
    """Save the heads of the cells, if they have weights, and return the costs that all of them have.

    No image is trained on by itself, so `flops_train`, the cost of one in a step, is empty.
    """
    if not isinstance(solver, LinearSolver):
        return {"n_params": 0}
    form = HeadForm("linear", solver.pooling, ARRAYS[solver.pool])
    for index, cell in enumerate(cells):
        save_head(run, plan, cell, form, solver.state(index), logits=solver.logits)
    return cost_columns(plan, cells[0], form) | {"flops_train": None}
