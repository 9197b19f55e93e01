"""How far something is that is measured in bytes: a bar on a terminal, a line now and then elsewhere."""

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
        """Start at nothing of `n_bytes`; `what` says what is going on."""
        self._what, self._total, self._done = what, n_bytes, 0
        self._start = self._last_line = time.monotonic()
        self._lock = Lock()
        console = Console(stderr=True)
        self._plain = not console.is_terminal
        self._bar = Progress(
            TextColumn(what),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=self._plain,
        )
        self._task = self._bar.add_task("", total=n_bytes)

    def __enter__(self) -> "ByteProgress":
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

    def advance(self, n_bytes: int) -> None:
        """Count some more."""
        self._bar.update(self._task, advance=n_bytes)
        with self._lock:
            self._done += n_bytes
            if self._plain and time.monotonic() - self._last_line > PLAIN_SECONDS:
                self._last_line = time.monotonic()
                rate = self._done / self.seconds
                print(
                    f"{self._what} {self._done / 1e6:,.0f}/{self._total / 1e6:,.0f} MB  {rate / 1e6:.1f} MB/s  "
                    f"{(self._total - self._done) / rate:.0f} s left",
                    file=sys.stderr,
                    flush=True,
                )
