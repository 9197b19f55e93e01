"""Stage two from top to bottom: plan, stream, train, select, write."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..engines import Engine, make_engine
from ..engines.shards import parse_shard, share_of
from ..runtime.console import status
from ..runtime.text import counted
from ..store.local_cache import open_cached
from .config import FitConfig
from .fitting.board import Board
from .fitting.layer_fit import fit_layer
from .fitting.parts import FitWork, Part, has_parts, merge_parts, plan_once
from .fitting.progress import CellProgress, FitProgress
from .logs import check_log, open_log
from .planning.estimate import describe
from .planning.layer_plan import LayerPlan, make_layer_plan
from .planning.machine import Machine, make_machine
from .planning.make_plan import make_plan
from .planning.plan import Plan
from .planning.settings import grid_settings
from .report import is_reported, write_report
from .run.files import check_run_folder
from .run.made_from import chosen_names, claim, name_stores
from .run.results import Run, open_run
from .run.store_names import split_name

logger = logging.getLogger(__name__)


def fit(paths: Sequence[str | Path], config: FitConfig) -> Run:
    """See `tokenprobe.probe.fit`."""
    if config.dry_run:
        for line in describe_fit(paths, config):
            logger.info(line)
        return Run(Path(config.out))
    made = make_engine(config.engine, address=config.address, num_gpus=config.num_gpus)
    if made.leads:
        _check(config)  # before an engine starts processes
    with made as engine:
        if engine.leads:
            return _lead(paths, config, engine)
        engine.serve()
    return Run(Path(config.out))


def _check(config: FitConfig) -> None:
    """Refuse settings that are wrong by themselves, whatever the stores and the machine are."""
    parse_shard(config.shard)
    check_log(config.log)
    check_run_folder(config.out)


def _lead(paths: Sequence[str | Path], config: FitConfig, engine: Engine) -> Run:
    """Plan the fit, train what the run lacks, and write the report."""
    out, machine = check_run_folder(config.out), make_machine(config)
    seen = Run(out)
    plans = _make_plans(paths, config, machine)
    todo = _plan_layers(plans, seen, machine)  # plan before the folder exists: this may refuse the command
    if not any(todo) and not has_parts(out) and seen.has_names(chosen_names(_plans_of(todo))) and is_reported(seen):
        logger.info("nothing to train: every cell of this command is in the run")
        return seen
    if config.shard is not None:
        return _fit_shard(config, out, machine, todo, engine)
    with open_run(out) as run:
        if run.finished != seen.finished:  # another fit has written to the run meanwhile
            todo = _plan_layers(plans, run, machine)
        in_parts = has_parts(out) or not engine.is_alone
        parts = plan_once(run, todo) if in_parts else []  # before `config.yaml`: this may refuse the command
        claim(run, _plans_of(todo), str(machine.device))
        _announce(todo)
        if not in_parts:
            _fit_layers(config, machine, todo, run)
        else:
            _fit_parts(config, machine, parts, engine)
            merge_parts(run)
            with open_log(config.log, out) as log:
                if log is not None:
                    log.finish(run.results)
        with status("writing tables, figures and the page"):
            write_report(run)
    return run


def _fit_layers(config: FitConfig, machine: Machine, todo: Sequence[LayerPlan], run: Run) -> None:
    """Train all layers in this process, and show the best cells."""
    board = Board(config.protocol)
    if run.finished:
        board.update(run.rows())
    n_cells, settings = sum(layer.n_cells for layer in todo), grid_settings(_plans_of(todo)[0])
    with (
        open_log(config.log, run.path, settings=settings) as log,
        FitProgress(n_cells, board, log) as progress,
    ):
        for layer in filter(None, todo):
            fit_layer(layer, machine, run, progress)
        if log is not None:
            log.finish(run.results)


def _fit_shard(config: FitConfig, out: Path, machine: Machine, todo: Sequence[LayerPlan], engine: Engine) -> Run:
    """Train a share of the layers, each as a run of its own in `parts/`. `merge_parts` makes one run of them."""
    out.mkdir(parents=True, exist_ok=True)
    run = Run(out)
    parts = plan_once(run, todo)  # before `config.yaml`: this may refuse the command
    claim(run, _plans_of(todo), str(machine.device))  # without the lock: shards of one command write the same
    _announce(todo)
    _fit_parts(config, machine, share_of(parts, config.shard), engine)
    logger.info(f"{out}: shard {config.shard} is done; once all are, give probe merge {out}")
    return run


def _fit_parts(config: FitConfig, machine: Machine, parts: Sequence[Part], engine: Engine) -> None:
    """Let the engine train layers, each as a run of its own, and show one progress bar."""
    parts = [part for part in parts if part.layer]
    with CellProgress(sum(part.layer.n_cells for part in parts)) as progress:
        engine.run(parts, FitWork(config, machine.place), progress.advance)


def describe_fit(paths: Sequence[str | Path], config: FitConfig) -> list[str]:
    """See `tokenprobe.probe.describe_fit`."""
    run, machine = Run(check_run_folder(config.out)), make_machine(config)
    todo = _plan_layers(_make_plans(paths, config, machine), run, machine)
    return describe(todo, machine)


def _make_plans(paths: Sequence[str | Path], config: FitConfig, machine: Machine) -> list[Plan]:
    given = [split_name(path) for path in paths]
    stores = [(name, open_cached(path, config.local_cache)) for name, path in given]
    return [replace(make_plan(store, config, machine.precision), label=name) for name, store in stores]


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
    warnings = {line for plan in plans for line in plan.warnings()}
    for name, line in told:
        level = logging.WARNING if line in warnings else logging.INFO
        logger.log(level, line if len(plans) == 1 else f"{name}: {line}")
