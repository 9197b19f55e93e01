"""The fit of one layer: its solvers, then its passes, on the same streams. Results are written after each of them."""

import logging
from collections.abc import Sequence
from typing import Any

import torch

from ..grid.cells import CellGroup
from ..planning.layer_plan import LayerPlan
from ..planning.machine import Machine
from ..planning.plan import Plan
from ..planning.settings import identity
from ..run.predictions import write_images
from ..run.results import Run
from ..training.replay import make_recorder
from .checkpoint import Checkpoint
from .group_fit import start_fit
from .halves import describe_halves, free_unused, halve, part_of
from .progress import FitProgress
from .result_rows import group_rows, save_heads
from .solve import solve
from .streams import LayerStreams, bytes_at_first
from .train import train_pass

logger = logging.getLogger(__name__)


def fit_layer(layer: LayerPlan, machine: Machine, run: Run, progress: FitProgress) -> None:
    """Fit the missing cells of one layer, all on the same streams, and write the results of every pass.

    Another process may replace a store meanwhile. So the stores are checked before the layer is read and before any
    result is written.
    """
    layer.plan.data.check_unchanged()
    with progress.part(f"layer {layer.label}, reading", 0, bytes_at_first(layer)):
        streams = LayerStreams(layer, machine.device, progress.advance)
    solved = [row for group in layer.solved_groups for row in solve(layer.plan, run, group, streams, progress)]
    if solved:
        write_images(run.path, layer.plan.name, layer.plan.data)
        run.add(solved, [])
    for groups in layer.passes:
        _train_pass(layer.plan, machine, run, groups, streams, progress)


def _train_pass(
    plan: Plan,
    machine: Machine,
    run: Run,
    groups: Sequence[CellGroup],
    streams: LayerStreams,
    progress: FitProgress,
    start: dict[str, Any] | None = None,
) -> None:
    """Train the groups of one pass over the tokens, and write their results. Their memory is free afterwards.

    Args:
        plan: of the store.
        machine: that trains.
        run: to write to.
        groups: of the pass.
        streams: of the layer.
        progress: told about every batch.
        start: state to begin with, if no checkpoint is newer.
    """
    cells = [cell.name for group in groups for cell in group.cells]
    checkpoint = Checkpoint(run.path, [identity(plan), *cells])
    start = checkpoint.load() or start
    try:
        _train_together(plan, machine, run, groups, streams, progress, checkpoint, start)
        return
    except torch.OutOfMemoryError:
        halves = halve(plan, groups, machine.device)
    kept = checkpoint.load() or start
    logger.warning(describe_halves(groups, machine.device, kept))
    free_unused(machine.device)  # here, because an error that is handled keeps its tensors
    for half in halves:
        _train_pass(plan, machine, run, half, streams, progress, part_of(kept, groups, half))


def _train_together(
    plan: Plan,
    machine: Machine,
    run: Run,
    groups: Sequence[CellGroup],
    streams: LayerStreams,
    progress: FitProgress,
    checkpoint: Checkpoint,
    start: dict[str, Any] | None,
) -> None:
    recorder = make_recorder(machine.device)
    fits = [start_fit(plan, group, machine.device, recorder) for group in groups]
    train_pass(plan, fits, streams, checkpoint, progress, start)
    plan.data.check_unchanged()
    for fit in fits:
        save_heads(run, plan, fit)
    write_images(run.path, plan.name, plan.data)
    run.add([row for fit in fits for row in group_rows(plan, fit)], [row for fit in fits for row in fit.history])
    checkpoint.remove()
