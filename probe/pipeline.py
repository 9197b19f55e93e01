"""Stage two from top to bottom: plan, stream, train, select, write."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..store import open_store
from .config import FitConfig
from .grid import Cell
from .group import Group
from .metrics import Counter, make_counter
from .order import Rows, epoch_windows, sequential_windows
from .plan import Plan, make_plan
from .report import write_report
from .report.progress import EpochProgress
from .results import Run, open_run, result_rows, save_heads
from .schedule import lr_factor
from .select import EpochTracker
from .stream import TokenStream, make_ring
from .tokens import TokenBatch

EVAL_BATCH = 256


def fit(path: str | Path, config: FitConfig) -> Run:
    """See `tokenprobe.probe.fit`."""
    plan = make_plan(open_store(path), config)
    with open_run(Path(config.out)) as run:
        run.claim(plan)
        _fit_all(plan, run)
    return run


def _fit_all(plan: Plan, run: Run) -> None:
    """Train what the run lacks, layer by layer, and report."""
    todo = {layer: _unfinished(run, plan.groups(layer)) for layer in plan.layers}
    n_cells = sum(len(cells) for groups in todo.values() for cells in groups)
    _announce(plan, n_cells)
    with EpochProgress(plan.config.epochs * sum(map(bool, todo.values()))) as progress:
        for layer, groups in todo.items():
            if groups:
                _fit_layer(plan, run, layer, groups, progress)
    write_report(run)


def _unfinished(run: Run, groups: Sequence[Sequence[Cell]]) -> list[list[Cell]]:
    left = [[cell for cell in cells if not run.has(cell.name)] for cells in groups]
    return [cells for cells in left if cells]


def _announce(plan: Plan, n_cells: int) -> None:
    if not n_cells:
        print("nothing to train: every cell of this command is in the run", file=sys.stderr, flush=True)
        return
    lines = [
        f"{n_cells} cells to train on {len(plan.layers)} layers: {len(plan.train_rows):,} training, "
        f"{len(plan.val_rows):,} held-out and {len(plan.test_split):,} test images"
    ]
    if plan.config.batch_size != plan.batch_size:
        lines.append(f"batch size {plan.batch_size}, warm-up {plan.warmup_epochs:.3g} of {plan.config.epochs} epochs")
    if plan.config.protocol == "paper":
        lines.append("protocol paper: the reported accuracy is the best epoch on the test split itself")
    print("\n".join(lines), file=sys.stderr, flush=True)


def _fit_layer(plan: Plan, run: Run, layer: int, cells: Sequence[Sequence[Cell]], progress: EpochProgress) -> None:
    """Train all groups of a layer on one stream of batches, and write their results."""
    groups = [_make_group(plan, layer, of_group) for of_group in cells]
    trackers = [[EpochTracker(plan.config.protocol) for _ in group.cells] for group in groups]
    train, test = _open_streams(plan, layer, groups)
    test_rows = np.arange(len(plan.test_split))
    history: list[dict[str, Any]] = []
    for epoch in range(plan.config.epochs):
        _train_epoch(plan, groups, train, epoch)
        vals = _score(groups, train, plan.val_rows) if len(plan.val_rows) else [None] * len(groups)
        tests = _score(groups, test, test_rows)
        for group, of_group, val, scored in zip(groups, trackers, vals, tests, strict=True):
            history += _keep_epoch(group, of_group, val, scored, epoch + 1)
        progress.advance(f"layer {layer}")
    for group in groups:
        save_heads(run, plan, group)
    rows = [row for group, of_group in zip(groups, trackers, strict=True) for row in result_rows(plan, group, of_group)]
    run.add(rows, history)


def _make_group(plan: Plan, layer: int, cells: Sequence[Cell]) -> Group:
    return Group(
        cells,
        plan.train_split.shape(layer),
        len(plan.train_split.classes),
        batch_size=plan.batch_size,
        device=plan.device,
        precision=plan.precision,
    )


def _open_streams(plan: Plan, layer: int, groups: Sequence[Group]) -> tuple[TokenStream, TokenStream]:
    """Return the streams of the training split (held-out rows included) and of the test split."""
    kinds = sorted({kind for group in groups for kind in group.kinds})
    rows = (np.union1d(plan.train_rows, plan.val_rows), np.arange(len(plan.test_split)))
    cache, ring = plan.cache(layer), make_ring(plan.device)
    train, test = (
        TokenStream(split, layer, of_split, kinds, cache=cache, device=plan.device, ring=ring)
        for split, of_split in zip((plan.train_split, plan.test_split), rows, strict=True)
    )
    return train, test


def _train_epoch(plan: Plan, groups: Sequence[Group], stream: TokenStream, epoch: int) -> None:
    """Make one pass over the training rows; every group takes every batch."""
    windows = epoch_windows(plan.train_rows, plan.train_split.info.block_rows, plan.config.seed, epoch)
    n_batches = max(1, len(plan.train_rows) // plan.batch_size)
    for number, (arrays, labels) in enumerate(stream.batches(windows, plan.batch_size, drop_last=True)):
        batch = TokenBatch(arrays, labels)
        factor = lr_factor(epoch + number / n_batches, plan.config.epochs, plan.warmup_epochs)
        for group in groups:
            group.train_batch(batch, factor)


def _score(groups: Sequence[Group], stream: TokenStream, rows: Rows) -> list[Counter]:
    """Score all cells on some rows in one pass."""
    counters = [make_counter(len(stream.split.classes), multi_label=False) for _ in groups]
    windows = sequential_windows(rows, stream.split.info.block_rows)
    for arrays, labels in stream.batches(windows, EVAL_BATCH, drop_last=False):
        batch = TokenBatch(arrays, labels)
        for group, counter in zip(groups, counters, strict=True):
            group.count_batch(counter, batch)
    return counters


def _keep_epoch(
    group: Group, trackers: Sequence[EpochTracker], val: Counter | None, test: Counter, epoch: int
) -> list[dict[str, Any]]:
    """Note one epoch of a group, keep the weights of cells that improved, and return its rows of the history."""
    vals: list[float | None] = [of["top1"] for of in val.scores()] if val else [None] * len(trackers)
    losses, tests = group.take_losses(), test.scores()
    group.keep_best([of.add(vals[i], tests[i]["top1"], tests[i]["top5"]) for i, of in enumerate(trackers)])
    return [
        {"cell": cell.name, "epoch": epoch, "train_loss": losses[i], "val_top1": vals[i], "test_top1": tests[i]["top1"]}
        for i, cell in enumerate(group.cells)
    ]
