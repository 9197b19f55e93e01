"""How far the extraction is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .decoding import Decoding

PLAIN_SECONDS = 10.0


class ImageProgress:
    """Counts images and the bytes made of them. On stderr."""

    def __init__(self, n_images: int, decoding: Decoding, label: str = "extract") -> None:
        self._decoding, self._label = decoding, label
        self._total, self._images, self._bytes = n_images, 0, 0
        self._start = self._last_line = time.monotonic()
        console = Console(stderr=True)
        self._plain = not console.is_terminal
        self._bar = Progress(
            TextColumn(label),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("images  {task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=self._plain,
        )
        self._task = self._bar.add_task("", total=n_images, rate="")

    def __enter__(self) -> "ImageProgress":
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

    def advance(self, n_images: int, n_bytes: int) -> None:
        """Count a batch."""
        self._images, self._bytes = self._images + n_images, self._bytes + n_bytes
        self._bar.update(self._task, advance=n_images, rate=self.rate())
        now = time.monotonic()
        if self._plain and (now - self._last_line > PLAIN_SECONDS or self._images == self._total):
            self._last_line = now
            left = (self._total - self._images) * self.seconds / self._images
            print(
                f"{self._label} {self._images}/{self._total} images  {self.rate()}  {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def rate(self) -> str:
        """Return the mean speed so far, such as "812 images/s  61.2 MB/s", and decoding's if that is what bounds it."""
        seconds = max(self.seconds, 1e-9)
        speed = f"{self._images / seconds:.0f} images/s"
        if self._bytes:
            speed += f"  {self._bytes / seconds / 1e6:.1f} MB/s"
        if not self._decoding.is_bound:
            return speed
        return f"{speed}  waiting for decoding: {self._decoding.images_per_core_second:.0f} images/s per core"


def say(line: str) -> None:
    """Tell the user something, on stderr."""
    print(line, file=sys.stderr, flush=True)
