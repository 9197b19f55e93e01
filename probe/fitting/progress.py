"""Progress of a fit, in cells, and its best cells. Cells of a pass count partly while its epochs go by."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich.console import RenderableType
from rich.progress import MofNCompleteColumn, TextColumn, TimeRemainingColumn

from ...runtime.progress import Progress
from ...runtime.text import counted, plural
from ..logs import Log
from .board import Board, Row

SAMPLE_SECONDS, N_SAMPLES = 1.0, 60
"""The remaining time is estimated from the last `N_SAMPLES` samples, at least `SAMPLE_SECONDS` apart."""


class FitProgress(Progress):
    """Counts cells. The work comes in parts: reading tokens, fitting a solver, training a pass."""

    def __init__(self, n_cells: int, board: Board | None = None, log: Log | None = None) -> None:
        """Start with 0 of `n_cells` cells done.

        Args:
            n_cells: in all.
            board: shows the best cells.
            log: gets the scores of all cells.
        """
        self._unit, self._board, self._log = plural(n_cells, "cell"), board, log
        self._part, self._where, self._before, self._cells = "", "", 0, 0
        self._noun = ""
        self._units, self._all_units = 0.0, 1.0
        self._samples = deque([(time.monotonic(), 0.0, 0.0)], maxlen=N_SAMPLES)
        super().__init__("fit", n_cells, MofNCompleteColumn(), TextColumn(f"{self._unit}  {{task.fields[note]}}"))

    @contextmanager
    def part(self, name: str, n_cells: int, n_units: float, done: float = 0, noun: str = "") -> Iterator[None]:
        """Do the next part of the work.

        Args:
            name: of the part.
            n_cells: number of cells that the part finishes.
            n_units: amount of work, in any unit.
            done: units that a checkpoint has already done. They take no time now, so the estimate ignores them.
            noun: for one unit, if people should see how many are done per second.
        """
        with self._lock:
            self._noun = noun
            self._part, self._cells, self._units, self._all_units = name, n_cells, done, max(n_units, 1)
            self._move("")
            self._samples.clear()
            self._samples.append((time.monotonic(), self._done, self._units))
        yield
        with self._lock:
            self._before, self._cells, self._units = self._before + n_cells, 0, self._all_units
            self._noun = ""
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
                self._samples.append((time.monotonic(), self._done, self._units))

    def scored(self, rows: Sequence[Row], history: Sequence[Row] = ()) -> None:
        """Take the scores of cells that train together, or of cells that are fitted at once.

        Args:
            rows: of the results so far, one per cell.
            history: of this epoch, one per cell; empty for cells without epochs.
        """
        if self._board is not None:
            with self._lock:
                self._board.update(rows)
        if self._log is not None:
            self._log.scored(rows, history)

    def _move(self, where: str) -> None:
        share, self._where = self._units / self._all_units, where
        self._what = f"fit {self._part} {where or f'{100 * share:.0f}%'}"
        self._reach(self._before + self._cells * share)

    def _line(self) -> str:
        best = "" if self._board is None else self._board.line()
        return "  ".join(
            filter(None, [f"{self._what}  {int(self._done)}/{self._total} {self._unit}", self._speed(), best])
        )

    def _above(self) -> RenderableType | None:
        return None if self._board is None else self._board.table(self._speed())

    def _speed(self) -> str:
        """Return the units per second of the latest samples of this part, and how many cells each goes through."""
        start, _, before = self._samples[0]
        done, seconds = self._units - before, time.monotonic() - start
        if not self._noun or done <= 0 or seconds <= 0:
            return ""
        through = f" × {counted(self._cells, 'cell')}" if self._cells else ""
        return f"{float(f'{done / seconds:.3g}'):,.0f} {plural(2, self._noun)}/s{through}"

    def _note(self) -> str:
        left = self._seconds_left()
        return "" if left is None else str(timedelta(seconds=round(left)))

    def _seconds_left(self) -> float | None:
        """Estimate from the latest samples of this part, because parts differ in speed. None before the first."""
        start, before, _ = self._samples[0]
        speed = (self._done - before) / max(time.monotonic() - start, 1e-9)
        return (self._total - self._done) / speed if speed > 0 else None


class QuietProgress(FitProgress):
    """Shows nothing, and tells how many cells are done, for a fit whose progress another process shows."""

    def __init__(self, n_cells: int, tell: Callable[[int], None], log: Log | None = None) -> None:
        self._tell_cells, self._n_told = tell, 0
        super().__init__(n_cells, log=log)

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
