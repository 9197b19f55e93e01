"""Progress of a fit, in cells. Cells of a pass count partly while its epochs go by."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.progress import MofNCompleteColumn, TextColumn, TimeRemainingColumn

from ...runtime.progress import Progress
from ...runtime.text import plural

SAMPLE_SECONDS, N_SAMPLES = 1.0, 60
"""The remaining time is estimated from the last `N_SAMPLES` samples, at least `SAMPLE_SECONDS` apart."""


class FitProgress(Progress):
    """Counts cells. The work comes in parts: reading tokens, fitting a solver, training a pass."""

    def __init__(self, n_cells: int) -> None:
        """Start with 0 of `n_cells` cells done."""
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
            n_cells: number of cells that the part finishes.
            n_units: amount of work, in any unit.
            done: units that a checkpoint has already done. They take no time now, so the estimate ignores them.
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
            n_units: number of units done now.
            where: the position in words. By default, the percentage of the part.
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
        """Estimate from the latest samples of this part, because parts differ in speed. None before the first."""
        start, before = self._samples[0]
        speed = (self._done - before) / max(time.monotonic() - start, 1e-9)
        return (self._total - self._done) / speed if speed > 0 else None


class QuietProgress(FitProgress):
    """Shows nothing, and tells how many cells are done, for a fit whose progress another process shows."""

    def __init__(self, n_cells: int, tell: Callable[[int], None]) -> None:
        self._tell_cells, self._n_told = tell, 0
        super().__init__(n_cells)

    def _reach(self, done: float) -> None:
        self._done = done
        if int(done) > self._n_told:
            self._tell_cells(int(done) - self._n_told)
            self._n_told = int(done)


class CellProgress(Progress):
    """Counts cells that several processes fit."""

    def __init__(self, n_cells: int) -> None:
        """Start at 0 of `n_cells`."""
        self._unit = plural(n_cells, "cell")
        super().__init__("fit", n_cells, MofNCompleteColumn(), TextColumn(self._unit), TimeRemainingColumn())

    def advance(self, n_cells: int, _: int = 0) -> None:
        """Count more cells."""
        self._count(n_cells)

    def _line(self) -> str:
        return f"{self._what} {int(self._done)}/{self._total} {self._unit}"
