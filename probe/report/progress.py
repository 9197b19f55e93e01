"""How far a fit is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 10.0


class EpochProgress:
    """Counts epochs over all layers. On stderr."""

    def __init__(self, n_epochs: int) -> None:
        self._total, self._done = n_epochs, 0
        self._start = self._last_line = time.monotonic()
        console = Console(stderr=True)
        self._plain = not console.is_terminal
        self._bar = Progress(
            TextColumn("fit {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeRemainingColumn(),
            console=console,
            disable=self._plain,
        )
        self._task = self._bar.add_task("", total=n_epochs)

    def __enter__(self) -> "EpochProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, what: str) -> None:
        """Count an epoch of `what`."""
        self._done += 1
        self._bar.update(self._task, advance=1, description=what)
        now = time.monotonic()
        if self._plain and (now - self._last_line > PLAIN_SECONDS or self._done == self._total):
            self._last_line = now
            left = (self._total - self._done) * (now - self._start) / self._done
            print(f"fit {what}  {self._done}/{self._total} epochs  {left:.0f} s left", file=sys.stderr, flush=True)
