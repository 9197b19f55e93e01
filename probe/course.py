"""A course: one body of training rows, with the schedule of the cells that are trained on it.

All cells on full data share one course. A low-shot subset is a course of its own, with one seed: it draws both the
subset and the initialisation.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil

from .order import batch_sizes
from .split import FULL, Rows

LEAST_SCORINGS = 10
"""A small subset costs far less to train on than the test split to score: it is scored this often, or after as many
epochs as cost the same."""


@dataclass(frozen=True, eq=False)
class Course:
    """What cells that see the same batches have in common.

    Attributes:
        shots: "full", "16" or "0.1", as in the results.
        seeds: of the cells.
        train_rows: sorted rows of the training split.
        val_rows: sorted rows to select on, of the split that holds them.
        batch_size: images in a step.
        epochs: passes over the training rows.
        warmup_epochs: of linear rise.
        scored: epochs after which all cells are scored, counted from 1; the last is `epochs`.
    """

    shots: str
    seeds: tuple[int, ...]
    train_rows: Rows
    val_rows: Rows
    batch_size: int
    epochs: int
    warmup_epochs: float
    scored: tuple[int, ...]

    @property
    def n_steps(self) -> int:
        """Steps in one epoch."""
        return len(batch_sizes(len(self.train_rows), self.batch_size, drop_last=True))

    def epochs_before(self, scoring: int) -> Iterator[int]:
        """Iterate over the epochs, from 0, between one scoring and the one before it."""
        yield from range(self.scored[scoring - 1] if scoring else 0, self.scored[scoring])


def repeats(epochs: int, steps: int, min_steps: int) -> int:
    """Return how often an epoch passes over its rows, so that all epochs together make at least `min_steps` steps."""
    return max(1, ceil(min_steps / (epochs * steps)))


def scored_epochs(epochs: int, n_passes: int, n_train: int, n_test: int, shots: str) -> tuple[int, ...]:
    """Return after which passes cells are scored: on full data after every epoch, else evenly spaced ones.

    Args:
        epochs: of the schedule.
        n_passes: over the training rows in all: a multiple of `epochs`.
        n_train: training images.
        n_test: test images.
        shots: "full" or a subset.
    """
    affordable = epochs if shots == FULL else max(LEAST_SCORINGS, ceil(n_passes * n_train / n_test))
    n_scorings = min(epochs, affordable)
    return tuple(n_passes // epochs * ceil((index + 1) * epochs / n_scorings) for index in range(n_scorings))


def in_step(courses: Iterable[Course]) -> list[list[Course]]:
    """Put together the courses that are scored equally often: they can share the passes over the test split."""
    together: dict[int, list[Course]] = {}
    for course in courses:
        together.setdefault(len(course.scored), []).append(course)
    return list(together.values())
