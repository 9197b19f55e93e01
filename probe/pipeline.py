"""Stage two from top to bottom: plan, stream, train, select, write."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ..store import open_store
from .checkpoint import Checkpoint
from .config import FitConfig
from .estimate import describe
from .grid import CellGroup
from .plan import Plan, make_plan
from .report import write_report
from .report.progress import EpochProgress
from .results import Run, open_run
from .rider import make_rider
from .rows import rider_rows, save_heads
from .solve import solve
from .streams import LayerStreams
from .train import train_pass
from .work import Work, make_work


def fit(paths: Sequence[str | Path], config: FitConfig) -> Run:
    """See `tokenprobe.probe.fit`."""
    plans = [make_plan(open_store(path), config) for path in paths]
    run = Run(Path(config.out))
    todo = _todo(run.named(plans), run)  # what is refused is refused before there is a folder
    if config.dry_run:
        print("\n".join(describe(todo)))
        return run
    with open_run(Path(config.out)) as run:
        plans = run.named(plans)
        todo = _todo(plans, run)  # again: until now another fit may have written to it
        run.claim(plans)
        _announce(plans, todo)
        with EpochProgress(sum(work.n_scorings for work in todo)) as progress:
            for work in filter(None, todo):
                _fit_layer(work, run, progress)
        write_report(run)
    return run


def _todo(plans: Sequence[Plan], run: Run) -> list[Work]:
    return [make_work(plan, layers, run) for plan in plans for layers in plan.layers]


def _announce(plans: Sequence[Plan], todo: Sequence[Work]) -> None:
    n_cells = sum(work.n_cells for work in todo)
    if not n_cells:
        print("nothing to train: every cell of this command is in the run", file=sys.stderr, flush=True)
        return
    told = [(plan, line) for plan in plans for line in plan.about()]
    told += [(work.plan, note) for work in todo for note in work.notes]
    one = len(plans) == 1
    lines = "\n".join(line if one else f"{plan.name}: {line}" for plan, line in told)
    in_all = f"{n_cells} cells to train on {sum(map(bool, todo))} layers:"
    print(in_all, lines, sep=" " if one else "\n", file=sys.stderr, flush=True)


def _fit_layer(work: Work, run: Run, progress: EpochProgress) -> None:
    """Fit what is left of one layer, all of it on the same streams, and write the results of every pass."""
    plan = work.plan
    streams = LayerStreams(plan, work.layers, work.kinds, work.courses)
    solved = [row for group in work.solver_groups for row in solve(plan, run, group, streams)]
    if solved:
        run.add(solved, [])
    for groups in work.passes:
        _train_pass(plan, run, groups, streams, progress)


def _train_pass(
    plan: Plan, run: Run, groups: Sequence[CellGroup], streams: LayerStreams, progress: EpochProgress
) -> None:
    """Train what rides together on one pass over the tokens, and write its results; nothing of it stays in memory."""
    riders = [make_rider(plan, group) for group in groups]
    cells = [cell.name for group in groups for cell in group.cells]
    checkpoint = Checkpoint(run.path, [plan.identity(), *cells])
    train_pass(plan, riders, streams, checkpoint, progress)
    for rider in riders:
        save_heads(run, plan, rider)
    run.add(
        [row for rider in riders for row in rider_rows(plan, rider)],
        [row for rider in riders for row in rider.history],
    )
    checkpoint.remove()
