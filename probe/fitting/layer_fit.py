"""The fit of one layer: its solvers, then its passes, on the same streams. Results are written after each of them."""

from collections.abc import Sequence

from ..grid.cells import CellGroup
from ..planning.layer_plan import LayerPlan
from ..planning.machine import Machine
from ..planning.plan import Plan
from ..planning.settings import identity
from ..run.results import Run
from ..training.replay import make_recorder
from .checkpoint import Checkpoint
from .group_fit import start_fit
from .progress import FitProgress
from .result_rows import group_rows, save_heads
from .solve import solve
from .streams import LayerStreams, bytes_at_first
from .train import train_pass


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
        run.add(solved, [])
    for groups in layer.passes:
        _train_pass(layer.plan, machine, run, groups, streams, progress)


def _train_pass(
    plan: Plan, machine: Machine, run: Run, groups: Sequence[CellGroup], streams: LayerStreams, progress: FitProgress
) -> None:
    """Train the groups of one pass over the tokens, and write their results. Their memory is free afterwards."""
    recorder = make_recorder(machine.device)
    fits = [start_fit(plan, group, machine.device, recorder) for group in groups]
    cells = [cell.name for group in groups for cell in group.cells]
    checkpoint = Checkpoint(run.path, [identity(plan), *cells])
    train_pass(plan, fits, streams, checkpoint, progress)
    plan.data.check_unchanged()
    for fit in fits:
        save_heads(run, plan, fit)
    run.add([row for fit in fits for row in group_rows(plan, fit)], [row for fit in fits for row in fit.history])
    checkpoint.remove()
