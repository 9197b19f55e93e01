"""Progress of a fit, in cells: those of a pass count in parts, as its epochs go by."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import MofNCompleteColumn, TextColumn

from ...runtime.progress import Progress
from ...runtime.text import plural

SAMPLE_SECONDS, N_SAMPLES = 1.0, 60
"""The time left is estimated from the last samples, taken so far apart at least."""


class FitProgress(Progress):
    """Counts cells. The work comes in parts: reading tokens, fitting a solver, training a pass."""

    def __init__(self, n_cells: int) -> None:
        """Start at nothing of `n_cells`."""
        self._unit = plural(n_cells, "cell")
        self._part, self._where, self._before, self._cells = "", "", 0, 0
        self._units, self._all_units = 0.0, 1.0
        self._samples = deque([(time.monotonic(), 0.0)], maxlen=N_SAMPLES)
        super().__init__("fit", n_cells, MofNCompleteColumn(), TextColumn(f"{self._unit}  {{task.fields[note]}}"))

    @contextmanager
    def part(self, name: str, n_cells: int, n_units: float, done: float = 0) -> Iterator[None]:
        """Do the next part of the work.

        Args:
            name: of the part.
            n_cells: that it finishes.
            n_units: of its work, in any measure.
            done: units that a checkpoint had. They took no time, so the estimate leaves them out.
        """
        with self._lock:
            self._part, self._cells, self._units, self._all_units = name, n_cells, done, max(n_units, 1)
            self._move("")
            self._samples.clear()
            self._samples.append((time.monotonic(), self._done))
        yield
        with self._lock:
            self._before, self._cells, self._units = self._before + n_cells, 0, self._all_units
            self._move(self._where)

    def advance(self, n_units: float, where: str = "") -> None:
        """Count units of the part.

        Args:
            n_units: done now.
            where: how far that is, in words; by default in percent of the part.
        """
        with self._lock:
            self._units += n_units
            self._move(where)
            if time.monotonic() - self._samples[-1][0] >= SAMPLE_SECONDS:
                self._samples.append((time.monotonic(), self._done))

    def _move(self, where: str) -> None:
        share, self._where = self._units / self._all_units, where
        self._what = f"fit {self._part} {where or f'{100 * share:.0f}%'}"
        self._reach(self._before + self._cells * share)

    def _line(self) -> str:
        return f"{self._what}  {int(self._done)}/{self._total} {self._unit}"

    def _note(self) -> str:
        left = self._seconds_left()
        return "" if left is None else str(timedelta(seconds=round(left)))

    def _seconds_left(self) -> float | None:
        """Estimate from the latest samples of this part, since parts differ in speed; None before the first."""
        start, before = self._samples[0]
        speed = (self._done - before) / max(time.monotonic() - start, 1e-9)
        return (self._total - self._done) / speed if speed > 0 else None
