"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

import time
from abc import ABC, abstractmethod
from threading import RLock
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn
from rich.progress import Progress as Bar

from .console import say

PLAIN_SECONDS = 10.0
"""Shortest time between two plain lines."""


class Progress(ABC):
    """Counts units of work, from any thread, and shows the count on stderr.

    A subclass has its own `advance`. It takes `_lock`, notes its own figures, and calls `_count`.
    """

    def __init__(self, what: str, total: int, *columns: ProgressColumn, last_line: bool = True) -> None:
        """Start at nothing.

        Args:
            what: name of the work; it begins the bar and the lines.
            total: units in all.
            columns: of the bar, after the name; they may show `task.fields[note]`, the text that `_note` gives.
            last_line: whether a plain line tells that all is done, however soon after the one before.
        """
        self._what, self._total, self._done = what, total, 0
        self._has_last_line = last_line
        self._start = self._told = time.monotonic()
        self._lock = RLock()
        console = Console(stderr=True)
        self._plain = not console.is_terminal
        self._bar = Bar(TextColumn("{task.description}"), BarColumn(), *columns, console=console, disable=self._plain)
        self._task = self._bar.add_task(what, total=total, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @abstractmethod
    def _line(self) -> str:
        """Return the plain line up to the time left."""

    def _note(self) -> str:
        """Return the text that the bar shows beside the count."""
        return ""

    def _seconds_left(self) -> float | None:
        """Estimate the time left from the mean speed so far; None while nothing is done."""
        return (self._total - self._done) * self.seconds / self._done if self._done else None

    def _count(self, n: int) -> None:
        """Count `n` more units and show them."""
        with self._lock:
            self._done += n
            self._bar.update(self._task, advance=n, description=self._what, note=self._note())
            now = time.monotonic()
            is_last = self._has_last_line and self._done == self._total
            if self._plain and (now - self._told > PLAIN_SECONDS or is_last):
                self._told = now
                left = self._seconds_left()
                say(self._line() + ("" if left is None else f"  {left:.0f} s left"))
