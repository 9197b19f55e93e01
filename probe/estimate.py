"""What a fit would do, before it does it: cells, bytes to read, memory and time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np

from ..runtime.text import size_text, time_text
from ..store.layout import PATCH
from .budget import needed
from .caching import DISK, SUBSETS, TEST, TRAIN, VAL
from .grid import CellGroup, HeadSpec
from .metrics import make_counter
from .norm import is_derived
from .order import WINDOW_BLOCKS
from .plan import Plan, head_inputs
from .rider import make_rider
from .split import FULL
from .stream import EVAL_BATCH, TokenStream
from .work import Work, memory_of

Timed = dict[tuple[HeadSpec, int, tuple[int, int], int], tuple[float, float]]


@dataclass(frozen=True)
class Estimate:
    """What the work on one layer, or several joined, takes.

    Attributes:
        read: bytes of tokens and means read from the store; means of normed tokens are made of the tokens.
        kept: bytes of tokens and means kept in memory.
        windows: bytes of the buffers that others are read into.
        training: bytes of parameters, activations and all else that the largest pass needs at its peak.
        seconds: of training and scoring.
    """

    read: int
    kept: int
    windows: int
    training: int
    seconds: float


def describe(todo: Sequence[Work]) -> list[str]:
    """Return the lines that the dry run prints."""
    lines, timed = [], Timed()
    for plan in {work.plan.name: work.plan for work in todo}.values():
        manifest = plan.data.store.manifest
        lines += [f"{plan.data.store.path}: {manifest.recipe.model} on {manifest.dataset}, as {plan.name}"]
        lines += [f"  {line}" for line in plan.about()]
    todo = [work for work in todo if work]
    estimates = [estimate(work, timed) for work in todo]
    for work, found in zip(todo, estimates, strict=True):
        lines.append(f"{work.plan.name}, layer {work.label}: {_line(work, found)}")
        lines += [f"  {note}" for note in work.notes]
    peak = max((found.kept + found.windows + found.training for found in estimates), default=0)
    lines.append(
        f"in all {sum(work.n_cells for work in todo)} cells: "
        f"{size_text(sum(found.read for found in estimates))} to read, {size_text(peak)} of memory at most, "
        f"{time_text(sum(found.seconds for found in estimates))} of training and scoring"
    )
    if any(work.solver_groups for work in todo):
        lines.append("the time of knn, ridge and logreg is not in it")
    return lines


def estimate(work: Work, timed: Timed) -> Estimate:
    """Estimate one layer; steps are timed on a few of its images, unless the same were timed already."""
    plan = work.plan
    places = plan.places(work.layers, work.courses)
    sizes = plan.sizes(work.layers, work.courses)
    if places.get(TRAIN, DISK) != DISK:
        sizes.pop(SUBSETS, None)  # rows of what is kept already
    rows = plan.rows(work.courses)
    n_rows = {name: len(rows[name]) * plan.split(name).info.views for name in sizes}
    small = _small_bytes(work, sum(n_rows.values()))
    derived = [kind for kind in small if is_derived(kind, plan.norm)]
    once = n_rows if derived else {}
    n_read = {name: n + once.get(name, 0) for name, n in _rows_read(work).items()}
    kept = {name for name in sizes if PATCH in work.kinds and places[name] != DISK}
    of_patches = sum(sizes[name] for name in kept)
    streamed = {name: sizes[name] // n_rows[name] for name in sizes if name not in kept and n_read[name]}
    return Estimate(
        read=of_patches
        + sum(n_bytes for kind, n_bytes in small.items() if kind not in derived)
        + sum(n_read[name] * n_bytes for name, n_bytes in streamed.items()),
        kept=of_patches + sum(small.values()),
        windows=max((_window_rows(work, name) * n_bytes for name, n_bytes in streamed.items()), default=0),
        training=max((needed(groups, partial(memory_of, plan)) for groups in work.passes), default=0),
        seconds=sum(_seconds(work, group, timed) for groups in work.passes for group in groups),
    )


def _small_bytes(work: Work, n_rows: int) -> dict[str, int]:
    """Return the bytes of the means, prefix tokens and embeddings of some rows, which are always kept."""
    shape, split = work.plan.shape(work.layers), work.plan.data.train
    return {
        kind: n_rows * prod(shape.row_shape(kind)) * split.dtype(kind).itemsize for kind in work.kinds if kind != PATCH
    }


def _rows_read(work: Work) -> dict[str, int]:
    """Return how many rows of patch tokens passes read of each body if nothing is kept: once, whatever rides along."""
    n_read = dict.fromkeys((TRAIN, SUBSETS, VAL, TEST), 0)
    held_out = work.plan.data.val is work.plan.data.train
    for groups in work.passes:
        courses = dict.fromkeys(group.course for group in groups if _reads_patches(work, group))
        for course in courses:
            train = TRAIN if course.shots == FULL else SUBSETS
            n_read[train] += course.epochs * course.n_steps * course.batch_size
            n_read[train if held_out else VAL] += len(course.scored) * len(course.val_rows)
        if courses:
            n_read[TEST] += len(groups[0].course.scored) * len(work.plan.data.test)
    return n_read


def _reads_patches(work: Work, group: CellGroup) -> bool:
    return PATCH in head_inputs(group.cells[0].head, work.plan.shape(work.layers))


def _window_rows(work: Work, name: str) -> int:
    """Return the rows of the largest window: a few blocks, and of whole batches where passes read them."""
    largest = max(course.batch_size for course in work.courses) if PATCH in work.kinds else 0
    return min(
        max(WINDOW_BLOCKS * work.plan.split(name).info.block_rows, largest), len(work.plan.rows(work.courses)[name])
    )


def _seconds(work: Work, group: CellGroup, timed: Timed) -> float:
    """Return the seconds that a group takes for training and scoring, from those for one image."""
    course, plan = group.course, work.plan
    shape = plan.input_shape(group.cells[0])
    key = group.cells[0].head, len(group.cells), shape.grid, shape.dim
    if key not in timed:
        timed[key] = _time_steps(plan, group)
    of_training, of_scoring = timed[key]
    n_scored = len(course.scored) * (len(course.val_rows) + len(plan.data.test))
    return course.epochs * course.n_steps * course.batch_size * of_training + n_scored * of_scoring


def _time_steps(plan: Plan, group: CellGroup) -> tuple[float, float]:
    """Return the seconds that training on one image takes, and scoring one."""
    rider = make_rider(plan, group)
    rows = np.arange(min(EVAL_BATCH, group.course.batch_size))
    stream = TokenStream(
        plan.data.train, group.cells[0].layers, rows, rider.group.kinds, cache="ram", device=plan.device, norm=plan.norm
    )
    (batch,) = stream.in_order(rows)
    counter = make_counter(plan.data.n_classes, plan.data.multi_label)

    def seconds(step: Callable[[], None]) -> float:
        step()
        rider.group.take_losses()  # waits for the device
        start = time.perf_counter()
        step()
        rider.group.take_losses()
        return (time.perf_counter() - start) / len(rows)

    return seconds(partial(rider.group.train_batch, batch, 0.0)), seconds(
        partial(rider.group.count_batch, counter, batch)
    )


def _line(work: Work, found: Estimate) -> str:
    places = "/".join(dict.fromkeys(work.plan.places(work.layers, work.courses).values()))
    return (
        f"{work.n_cells} cells in {len(work.groups)} groups and {len(work.passes)} passes; "
        f"reads {size_text(found.read)}, tokens in {places}; memory {size_text(found.kept + found.windows)} for tokens "
        f"and {size_text(found.training)} for training; {time_text(found.seconds)}"
    )
