"""Stage two from top to bottom: plan, stream, train, select, write."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..runtime.text import counted
from ..store import open_store
from .config import FitConfig
from .fitting.checkpoint import Checkpoint
from .fitting.group_fit import start_fit
from .fitting.halves import describe_halves, free_unused, halve, part_of
from .fitting.progress import FitProgress
from .fitting.result_rows import group_rows, save_heads
from .fitting.solve import solve
from .fitting.streams import LayerStreams, bytes_at_first
from .fitting.train import train_pass
from .grid.cells import CellGroup
from .planning.estimate import describe
from .planning.layer_plan import LayerPlan, make_layer_plan
from .planning.machine import Machine, make_machine
from .planning.make_plan import make_plan
from .planning.plan import Plan
from .planning.settings import identity
from .report import is_reported, write_report
from .run.files import check_run_folder
from .run.made_from import chosen_names, claim, name_stores
from .run.predictions import write_images
from .run.results import Run, open_run
from .run.store_names import split_name
from .training.replay import make_recorder

logger = logging.getLogger(__name__)


def fit(paths: Sequence[str | Path], config: FitConfig) -> Run:
    """See `tokenprobe.probe.fit`."""
    if config.dry_run:
        for line in describe_fit(paths, config):
            logger.info(line)
        return Run(Path(config.out))
    out, machine = check_run_folder(config.out), make_machine(config)
    seen = Run(out)
    plans = _make_plans(paths, config, machine)
    todo = _plan_layers(plans, seen, machine)  # plan before the folder exists: this may refuse the command
    if not any(todo) and seen.has_names(chosen_names(_plans_of(todo))) and is_reported(seen):
        logger.info("nothing to train: every cell of this command is in the run")
        return seen
    with open_run(out) as run:
        if run.finished != seen.finished:  # another fit has written to the run meanwhile
            todo = _plan_layers(plans, run, machine)
        claim(run, _plans_of(todo), str(machine.device))
        _announce(todo)
        with FitProgress(sum(layer.n_cells for layer in todo)) as progress:
            for layer in filter(None, todo):
                _fit_layer(layer, machine, run, progress)
        write_report(run)
    return run


def describe_fit(paths: Sequence[str | Path], config: FitConfig) -> list[str]:
    """See `tokenprobe.probe.describe_fit`."""
    run, machine = Run(check_run_folder(config.out)), make_machine(config)
    todo = _plan_layers(_make_plans(paths, config, machine), run, machine)
    return describe(todo, machine)


def _make_plans(paths: Sequence[str | Path], config: FitConfig, machine: Machine) -> list[Plan]:
    given = [split_name(path) for path in paths]
    return [replace(make_plan(open_store(path), config, machine.precision), label=name) for name, path in given]


def _plan_layers(plans: Sequence[Plan], run: Run, machine: Machine) -> list[LayerPlan]:
    """Give every store its name in the run, and plan its layers."""
    return [
        make_layer_plan(plan, machine, layers, run.finished)
        for plan in name_stores(run, plans)
        for layers in plan.grid.layers
    ]


def _plans_of(todo: Sequence[LayerPlan]) -> list[Plan]:
    return list({layer.plan.name: layer.plan for layer in todo}.values())


def _announce(todo: Sequence[LayerPlan]) -> None:
    n_cells = sum(layer.n_cells for layer in todo)
    if not n_cells:
        logger.info("nothing to train: every cell of this command is in the run")
        return
    plans = _plans_of(todo)
    logger.info(f"{counted(n_cells, 'cell')} to train on {counted(sum(map(bool, todo)), 'layer')}")
    told = [(plan.label or plan.name, line) for plan in plans for line in plan.about()]
    told += [(layer.plan.label or layer.plan.name, note) for layer in todo for note in layer.notes]
    warnings = {line for plan in plans for line in plan.lacking()}
    for name, line in told:
        level = logging.WARNING if line in warnings else logging.INFO
        logger.log(level, line if len(plans) == 1 else f"{name}: {line}")


def _fit_layer(layer: LayerPlan, machine: Machine, run: Run, progress: FitProgress) -> None:
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
