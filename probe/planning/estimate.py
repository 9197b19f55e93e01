"""The dry run: cells, bytes to read, memory and time of a fit, before it starts."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np

from ...runtime.text import counted, size_text, time_text
from ...store.layout import PATCH
from ..batches.data import SUBSETS, TEST, TRAIN, VAL
from ..batches.norm import FinalNorm, is_derived
from ..batches.order import WINDOW_BLOCKS
from ..batches.stream import EVAL_BATCH, TokenStream
from ..batches.subsets import FULL
from ..batches.token_shape import TokenShape, stored_kinds
from ..grid.cells import CellGroup
from ..grid.specs import HeadSpec
from ..training.group import Group
from ..training.metrics import make_counter
from ..training.replay import REHEARSALS, make_recorder
from .layer_plan import LayerPlan, memory_of
from .machine import Machine
from .passes import needed
from .places import DISK
from .solver_time import solver_seconds

Timed = dict[tuple[HeadSpec, int, TokenShape], tuple[float, float]]
"""Seconds per image for training and for scoring, by head, number of cells, and shape of the tokens."""


@dataclass(frozen=True)
class Estimate:
    """The cost of the work on one layer, or on several layers together.

    Attributes:
        read: bytes of tokens and means read from the store. Means of normed tokens are computed from the tokens.
        kept: bytes of tokens and means kept in memory.
        windows: bytes of the buffers for tokens that are read from the disk.
        training: bytes that the largest pass needs at its peak: parameters, activations and the rest.
        seconds: time of training by steps and of scoring, measured on a few images.
        solving: seconds for heads that are fitted at once, guessed from counted operations.
    """

    read: int
    kept: int
    windows: int
    training: int
    seconds: float
    solving: float


def describe(todo: Sequence[LayerPlan], machine: Machine) -> list[str]:
    """Return the lines of a dry run."""
    lines, timed = [], Timed()
    for plan in {layer.plan.name: layer.plan for layer in todo}.values():
        manifest = plan.data.store.manifest
        lines += [f"{plan.data.store.path}: {manifest.recipe.model} on {manifest.dataset}, as {plan.name}"]
        lines += [f"  {line}" for line in plan.about()]
    todo = [layer for layer in todo if layer]
    estimates = [estimate(layer, machine, timed) for layer in todo]
    for layer, found in zip(todo, estimates, strict=True):
        lines.append(f"{layer.plan.name}, layer {layer.label}: {_line(layer, found)}")
        lines += [f"  {note}" for note in layer.notes]
    peak = max((found.kept + found.windows + found.training for found in estimates), default=0)
    read, seconds, solving = (sum(getattr(each, name) for each in estimates) for name in ("read", "seconds", "solving"))
    n_cells = counted(sum(layer.n_cells for layer in todo), "cell")
    lines.append(
        f"in all {n_cells}: {size_text(read)} to read, {size_text(peak)} of memory at most, "
        f"{time_text(seconds + solving)} of fitting and scoring"
    )
    solvers = dict.fromkeys(group.cells[0].head.name for layer in todo for group in layer.solved_groups)
    if solvers:
        lines.append(f"{time_text(solving)} of it for {', '.join(solvers)}, a guess from operation counts")
    return lines


def estimate(layer: LayerPlan, machine: Machine, timed: Timed) -> Estimate:
    """Estimate one layer. Steps are timed on a few of its images, unless `timed` already has such steps."""
    plan = layer.plan
    n_rows = {name: len(rows) * plan.data.split_of(name).info.views for name, rows in layer.rows.items()}
    small = _small_bytes(layer, sum(n_rows.values()))
    derived = {kind for kind in small if is_derived(kind, normed=plan.data.norm is not None)}
    kept = {name for name in layer.rows if layer.placed and layer.places[name] != DISK}
    of_kept = sum(len(layer.rows[name]) * plan.data.row_bytes(layer.layers, layer.placed, name) for name in kept)
    n_read, streamed = _rows_read(layer), {name for name in layer.rows if name not in kept}
    for_means = {name for name in layer.rows if derived and not (name in kept and PATCH in layer.placed)}
    windows = [_window_rows(layer, name) * _view_bytes(layer, layer.placed, name) for name in streamed if n_read[name]]
    windows += [_window_rows(layer, name) * _view_bytes(layer, [PATCH], name) for name in for_means]
    return Estimate(
        read=of_kept
        + sum(n_bytes for kind, n_bytes in small.items() if kind not in derived)
        + sum(n_read[name] * _view_bytes(layer, layer.placed, name) for name in streamed)
        + sum(n_rows[name] * _view_bytes(layer, [PATCH], name) for name in for_means),
        kept=of_kept + sum(small.values()),
        windows=max(windows, default=0),
        training=max((needed(groups, partial(memory_of, plan, machine.device)) for groups in layer.passes), default=0),
        seconds=sum(_seconds(layer, group, machine, timed) for groups in layer.passes for group in groups),
        solving=sum(solver_seconds(plan, group, machine.device) for group in layer.solved_groups),
    )


def _view_bytes(layer: LayerPlan, kinds: Sequence[str], name: str) -> int:
    """Return the bytes of stored arrays for one view of one row of a row set."""
    data = layer.plan.data
    return data.row_bytes(layer.layers, kinds, name) // data.split_of(name).info.views


def _small_bytes(layer: LayerPlan, n_rows: int) -> dict[str, int]:
    """Return the bytes of the arrays of some rows that are always kept in memory."""
    shape, split = layer.plan.data.shape(layer.layers), layer.plan.data.train
    return {
        kind: n_rows * prod(shape.row_shape(kind)) * split.dtype(kind).itemsize
        for kind in stored_kinds(layer.kinds)
        if kind not in layer.placed
    }


def _rows_read(layer: LayerPlan) -> dict[str, int]:
    """Return the rows of placed arrays that passes read per row set if none is kept. Groups of a pass share reads."""
    n_read = dict.fromkeys((TRAIN, SUBSETS, VAL, TEST), 0)
    data = layer.plan.data
    for groups in layer.passes:
        regimes = dict.fromkeys(group.regime for group in groups if layer.reads_placed(group))
        for regime in regimes:
            train = TRAIN if regime.shots == FULL else SUBSETS
            n_read[train] += regime.epochs * regime.n_steps * regime.batch_size
            n_read[train if data.holds_out else VAL] += len(regime.scored) * len(regime.val_rows)
        if regimes:
            n_read[TEST] += len(groups[0].regime.scored) * len(data.test)
    return n_read


def _window_rows(layer: LayerPlan, name: str) -> int:
    """Return the rows of the largest window: a few blocks, or one batch of placed arrays if that is larger."""
    largest = max(regime.batch_size for regime in layer.regimes) if layer.placed else 0
    block_rows = layer.plan.data.split_of(name).info.block_rows
    return min(max(WINDOW_BLOCKS * block_rows, largest), len(layer.rows[name]))


def _seconds(layer: LayerPlan, group: CellGroup, machine: Machine, timed: Timed) -> float:
    """Return the seconds for training and scoring a group, from the seconds per image."""
    regime, shape = group.regime, layer.plan.input_shape(group.cells[0])
    key = group.cells[0].head, len(group.cells), shape
    if key not in timed:
        timed[key] = _time_steps(layer, group, machine)
    of_training, of_scoring = timed[key]
    n_scored = len(regime.scored) * (len(regime.val_rows) + len(layer.plan.data.test))
    return regime.epochs * regime.n_steps * regime.batch_size * of_training + n_scored * of_scoring


def _time_steps(layer: LayerPlan, cells: CellGroup, machine: Machine) -> tuple[float, float]:
    """Return the seconds per image for training and for scoring."""
    data, device = layer.plan.data, machine.device
    recorder = make_recorder(device)
    group = Group(cells.cells, layer.plan.group_setup(cells, device), recorder)
    rows = np.arange(min(EVAL_BATCH, cells.regime.batch_size))
    norm = None if data.norm is None else FinalNorm.from_json(data.norm).to(device)
    stream = TokenStream(data.train, layer.layers, rows, group.kinds, cache="ram", device=device, norm=norm)
    (batch,) = stream.in_order(rows)
    counter = make_counter(data.n_classes, data.multi_label)

    def seconds(step: Callable[[], None]) -> float:
        for _ in range(1 if recorder is None else REHEARSALS + 1):
            step()
        group.take_losses()  # waits for the device
        start = time.perf_counter()
        step()
        group.take_losses()
        return (time.perf_counter() - start) / len(rows)

    return seconds(partial(group.train_batch, batch, 0.0)), seconds(partial(group.count_batch, counter, batch))


def _line(layer: LayerPlan, found: Estimate) -> str:
    places = "/".join(dict.fromkeys(layer.places.values()))
    work = f"{counted(layer.n_cells, 'cell')} in {counted(len(layer.groups), 'group')}"
    memory = f"memory {size_text(found.kept + found.windows)} for tokens"
    if layer.passes:
        work += f" and {counted(len(layer.passes), 'pass', 'passes')}"
        memory += f" and {size_text(found.training)} for training"
    time_of = time_text(found.seconds + found.solving)
    return f"{work}; reads {size_text(found.read)}, tokens in {places}; {memory}; {time_of}"
