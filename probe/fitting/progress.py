"""Progress of a fit, in epochs."""

import time
from collections import deque
from datetime import timedelta

from rich.progress import MofNCompleteColumn, TextColumn

from ...runtime.console import plural
from ...runtime.progress import Progress

RECENT_STEPS = 50


class EpochProgress(Progress):
    """Counts epochs over all passes. On stderr."""

    def __init__(self, n_epochs: int) -> None:
        """Start.

        Args:
            n_epochs: of all passes together.
        """
        self._unit = plural(n_epochs, "epoch")
        self._recent = deque([(time.monotonic(), 0)], maxlen=RECENT_STEPS)
        super().__init__("fit", n_epochs, MofNCompleteColumn(), TextColumn(f"{self._unit}  {{task.fields[note]}}"))

    def advance(self, what: str, n_epochs: int = 1) -> None:
        """Count epochs of a pass.

        Args:
            what: name of the pass.
            n_epochs: done now. A number other than 1 counts the epochs that a checkpoint had when a pass started: they
                took no time, so the estimate leaves them out.
        """
        with self._lock:
            self._what = f"fit {what}"
            if n_epochs != 1:
                self._recent.clear()
            self._recent.append((time.monotonic(), self._done + n_epochs))
            self._count(n_epochs)

    def _line(self) -> str:
        return f"{self._what}  {self._done}/{self._total} {self._unit}"

    def _note(self) -> str:
        left = self._seconds_left()
        return "" if left is None else str(timedelta(seconds=round(left)))

    def _seconds_left(self) -> float | None:
        """Estimate from the latest epochs, since passes differ in how long an epoch takes; None before the first."""
        (start, before), (now, done) = self._recent[0], self._recent[-1]
        if done == before:
            return None
        return (self._total - done) * (now - start) / (done - before)
