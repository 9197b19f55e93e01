"""How far a fit is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections import deque
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

PLAIN_SECONDS = 10.0
RECENT_STEPS = 50


class EpochProgress:
    """Counts epochs over all passes. On stderr."""

    def __init__(self, n_epochs: int) -> None:
        """Start.

        Args:
            n_epochs: of all passes together.
        """
        self._total, self._done = n_epochs, 0
        self._last_line = time.monotonic()
        self._recent = deque([(self._last_line, 0)], maxlen=RECENT_STEPS)
        console = Console(stderr=True)
        self._plain = not console.is_terminal
        self._bar = Progress(
            TextColumn("fit {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs  {task.fields[left]}"),
            console=console,
            disable=self._plain,
        )
        self._task = self._bar.add_task("", total=n_epochs, left="")

    def __enter__(self) -> "EpochProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, what: str, n_epochs: int = 1) -> None:
        """Count epochs of a pass.

        Args:
            what: the pass.
            n_epochs: that are done now. Other than 1 where a pass starts: those that a checkpoint had, which took no
                time and say nothing of how long the others will take.
        """
        now = time.monotonic()
        self._done += n_epochs
        if n_epochs != 1:
            self._recent.clear()
        self._recent.append((now, self._done))
        left = self._seconds_left()
        shown = "" if left is None else str(timedelta(seconds=round(left)))
        self._bar.update(self._task, advance=n_epochs, description=what, left=shown)
        if self._plain and (now - self._last_line > PLAIN_SECONDS or self._done == self._total):
            self._last_line = now
            end = "" if left is None else f"  {left:.0f} s left"
            print(f"fit {what}  {self._done}/{self._total} epochs{end}", file=sys.stderr, flush=True)

    def _seconds_left(self) -> float | None:
        """Estimate from the latest epochs, as passes differ in how long an epoch takes; None before the first."""
        (start, before), (now, done) = self._recent[0], self._recent[-1]
        if done == before:
            return None
        return (self._total - done) * (now - start) / (done - before)
