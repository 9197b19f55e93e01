"""One pass: groups of cells trained together on one stream of tokens, scored together, kept after a crash."""

from collections.abc import Iterable, Sequence

from .checkpoint import Checkpoint
from .course import Course
from .metrics import Counter, make_counter
from .order import epoch_windows
from .plan import Plan
from .report.progress import EpochProgress
from .rider import Rider
from .schedule import lr_factor
from .split import Rows
from .stream import TokenStream
from .streams import LayerStreams


def train_pass(
    plan: Plan, riders: Sequence[Rider], streams: LayerStreams, checkpoint: Checkpoint, progress: EpochProgress
) -> None:
    """Train all riders to the end of their courses; their courses are scored equally often."""
    courses = list(dict.fromkeys(rider.course for rider in riders))
    n_scorings = len(courses[0].scored)
    first = _restore(riders, checkpoint)
    progress.advance(_label(riders), first)
    for scoring in range(first, n_scorings):
        for course in courses:
            on_course = [rider for rider in riders if rider.course is course]
            for epoch in course.epochs_before(scoring):
                _train_epoch(plan, on_course, streams.train(course), epoch)
        _score(plan, riders, courses, streams, scoring)
        progress.advance(_label(riders))
        if checkpoint.due():
            checkpoint.save({"scorings": scoring + 1, "riders": [rider.state() for rider in riders]})


def kinds_of(riders: Iterable[Rider]) -> list[str]:
    """Return the arrays that some rider reads."""
    return sorted({kind for rider in riders for kind in rider.group.kinds})


def _restore(riders: Sequence[Rider], checkpoint: Checkpoint) -> int:
    """Go on from the checkpoint, if there is one; return how often the riders have been scored."""
    kept = checkpoint.load()
    if kept is None:
        return 0
    for rider, state in zip(riders, kept["riders"], strict=True):
        rider.load_state(state)
    n_scorings: int = kept["scorings"]
    return n_scorings


def _train_epoch(plan: Plan, riders: Sequence[Rider], stream: TokenStream, epoch: int) -> None:
    """Make one pass over the rows of a course; every group on it takes every batch."""
    course = riders[0].course
    windows = epoch_windows(course.train_rows, plan.data.train.info.block_rows, plan.config.seed, epoch)
    batches = stream.batches(
        windows, course.batch_size, drop_last=True, view=epoch % plan.data.views, kinds=kinds_of(riders)
    )
    for number, batch in enumerate(batches):
        factor = lr_factor(epoch + number / course.n_steps, course.epochs, course.warmup_epochs)
        for rider in riders:
            rider.group.train_batch(batch, factor)


def _score(plan: Plan, riders: Sequence[Rider], courses: Sequence[Course], streams: LayerStreams, scoring: int) -> None:
    """Score all riders, each on the validation rows of its course, and on the test split in one pass."""
    alive = [rider.group.retire() for rider in riders]
    vals: dict[int, Counter] = {}
    for course in courses:
        if len(course.val_rows):
            on_course = [rider for rider in riders if rider.course is course]
            counters = _count(plan, on_course, streams.val(course), course.val_rows)
            vals |= {id(rider): counter for rider, counter in zip(on_course, counters, strict=True)}
    tests = _count(plan, riders, streams.test, streams.test_rows)
    for rider, test, lives in zip(riders, tests, alive, strict=True):
        rider.keep(rider.course.scored[scoring], vals.get(id(rider)), test, lives)


def _count(plan: Plan, riders: Sequence[Rider], stream: TokenStream, rows: Rows) -> list[Counter]:
    counters = [make_counter(plan.data.n_classes, plan.data.multi_label) for _ in riders]
    for batch in stream.in_order(rows, kinds_of(riders)):
        for rider, counter in zip(riders, counters, strict=True):
            rider.group.count_batch(counter, batch)
    return counters


def _label(riders: Sequence[Rider]) -> str:
    return f"layer {riders[0].group.cells[0].layer}"
