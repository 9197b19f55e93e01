"""How far reading a store is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from threading import Lock
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

PLAIN_SECONDS = 10.0


class ByteProgress:
    """Counts bytes, from any thread. On stderr."""

    def __init__(self, what: str, n_bytes: int) -> None:
        self._what, self._total, self._bytes = what, n_bytes, 0
        self._last_line, self._lock = time.monotonic(), Lock()
        console = Console(stderr=True)
        self._plain = not console.is_terminal
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._bar = Progress(TextColumn(what), *columns, console=console, disable=self._plain)
        self._task = self._bar.add_task("", total=n_bytes)

    def __enter__(self) -> "ByteProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, n_bytes: int) -> None:
        """Count what has been read."""
        self._bar.update(self._task, advance=n_bytes)
        with self._lock:
            self._bytes += n_bytes
            now = time.monotonic()
            if self._plain and now - self._last_line > PLAIN_SECONDS:
                self._last_line = now
                done, total = (f"{n / 1e9:.1f}" for n in (self._bytes, self._total))
                print(f"{self._what} {done}/{total} GB", file=sys.stderr, flush=True)
