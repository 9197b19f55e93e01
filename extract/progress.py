"""Progress over images: how many are done, how fast, and whether decoding holds them up."""

from rich.progress import MofNCompleteColumn, TextColumn, TimeRemainingColumn

from ..runtime.console import plural
from ..runtime.progress import Progress
from .decoded import DecodeSpeed


class ImageProgress(Progress):
    """Counts images and the bytes made of them. On stderr."""

    def __init__(self, n_images: int, decode_speed: DecodeSpeed, label: str = "extract") -> None:
        """Start at nothing of `n_images`; `label` names the work, and `decode_speed` counts beside it."""
        self._decode_speed, self._bytes, self._unit = decode_speed, 0, plural(n_images, "image")
        note = TextColumn(f"{self._unit}  {{task.fields[note]}}")
        super().__init__(label, n_images, MofNCompleteColumn(), note, TimeRemainingColumn())

    def advance(self, n_images: int, n_bytes: int) -> None:
        """Count a batch."""
        with self._lock:
            self._bytes += n_bytes
            self._count(n_images)

    def rate(self) -> str:
        """Return the mean speed so far, such as "812 images/s  61.2 MB/s", and decoding's if that is what bounds it."""
        seconds = max(self.seconds, 1e-9)
        speed = f"{self._done / seconds:.0f} images/s"
        if self._bytes:
            speed += f"  {self._bytes / seconds / 1e6:.1f} MB/s"
        if not self._decode_speed.is_bound:
            return speed
        return f"{speed}  waiting for decoding: {self._decode_speed.images_per_core_second:.0f} images/s per core"

    def _line(self) -> str:
        return f"{self._what} {self._done}/{self._total} {self._unit}  {self.rate()}"

    def _note(self) -> str:
        return self.rate()
