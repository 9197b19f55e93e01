"""Progress of long work, if messages are shown: a bar on a terminal, a line now and then elsewhere."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from math import inf
from threading import RLock
from types import TracebackType
from typing import Self

from rich.console import RenderableType
from rich.progress import BarColumn, ProgressColumn, TextColumn
from rich.progress import Progress as RichProgress

from .console import bar_console
from .text import time_text

LEAST_PAUSE, MOST_PAUSE = 10.0, 300.0
"""Shortest and longest pause between two plain lines, in seconds."""
PAUSE_SHARE = 1 / 20
"""Between those limits, the pause is this share of the time so far: a long run does not fill its log."""
REDRAWS_PER_SECOND = 4
"""How often a terminal shows the bar, and what stands above it, anew."""
BAR_WIDTH = 12

logger = logging.getLogger(__name__)


class Progress(ABC):
    """Counts units of work, from any thread.

    A subclass has its own `advance`, which takes `_lock`, notes its own figures, and calls `_count`.
    """

    def __init__(self, what: str, total: int, *columns: ProgressColumn, last_line: bool = True) -> None:
        """Start at zero.

        Args:
            what: name of the work, at the start of the bar and the lines.
            total: units in all.
            columns: of the bar, after the name; they may show `task.fields[note]`, the text from `_note`.
            last_line: whether the end gets a plain line, however recent the line before it.
        """
        self._what, self._total = what, total
        self._done: float = 0
        self._has_last_line = last_line
        self._start = self._told = time.monotonic()
        self._drawn = -inf
        self._lock = RLock()
        console = bar_console()
        self._plain = console is None
        name = TextColumn("{task.description}", markup=False)
        self._bar = _Bar(
            name,
            BarColumn(BAR_WIDTH),
            *columns,
            console=console,
            disable=self._plain,
            refresh_per_second=REDRAWS_PER_SECOND,
        )
        self._task = self._bar.add_task(what, total=total, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._bar.top = None  # results follow
        self._bar.stop()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @abstractmethod
    def _line(self) -> str:
        """Return the plain line, without the time left."""

    def _note(self) -> str:
        """Return the text beside the count in the bar."""
        return ""

    def _above(self) -> RenderableType | None:
        """Return what stands above the bar, or None. The caller holds the lock."""
        return None

    def _seconds_left(self) -> float | None:
        """Estimate the seconds left from the mean speed so far; None at the start."""
        return (self._total - self._done) * self.seconds / self._done if self._done else None

    def _count(self, n: float) -> None:
        """Count `n` more units and show them."""
        with self._lock:
            self._reach(self._done + n)

    def _reach(self, done: float) -> None:
        """Show that `done` units are done. The caller holds the lock."""
        self._done = done
        if self._plain:
            self._tell()
        elif done == self._total or time.monotonic() - self._drawn >= 1 / REDRAWS_PER_SECOND:
            self._drawn = time.monotonic()
            self._bar.top = self._above()
            self._bar.update(self._task, completed=done, description=self._what, note=self._note())

    def _tell(self) -> None:
        """Log a line, unless the one before it is too recent."""
        now = time.monotonic()
        pause = min(max(LEAST_PAUSE, PAUSE_SHARE * (now - self._start)), MOST_PAUSE)
        is_last = self._has_last_line and self._done == self._total
        self._has_last_line &= not is_last
        if now - self._told > pause or is_last:
            self._told = now
            left = self._seconds_left()
            logger.info(self._line() + ("" if left is None else f"  {time_text(left)} left"))


class _Bar(RichProgress):
    """A bar that may have something above it.

    Attributes:
        top: stands above. rich draws from a thread of its own, under a lock: so it asks for nothing here.
    """

    top: RenderableType | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """See rich."""
        if self.top is not None:
            yield self.top
        yield from super().get_renderables()
