"""Progress over images: count, speed, and whether decoding is the bottleneck."""

from rich.progress import MofNCompleteColumn, TextColumn, TimeRemainingColumn

from ..runtime.progress import Progress
from ..runtime.text import plural, size_text
from .decoded import DecodeSpeed


class ImageProgress(Progress):
    """Counts images and the bytes of their tokens."""

    def __init__(self, n_images: int, decode_speed: DecodeSpeed, label: str = "extract") -> None:
        """Start at 0 of `n_images`; `label` names the work, and `decode_speed` is the counter of decoding."""
        self._decode_speed, self._bytes, self._unit = decode_speed, 0, plural(n_images, "image")
        note = TextColumn("{task.fields[note]}")
        super().__init__(label, n_images, MofNCompleteColumn(), note, TimeRemainingColumn())

    def advance(self, n_images: int, n_bytes: int) -> None:
        """Count a batch."""
        with self._lock:
            self._bytes += n_bytes
            self._count(n_images)

    @property
    def speed(self) -> int:
        """Images per second so far, rounded."""
        return round(self._done / max(self.seconds, 1e-9))

    def rate(self) -> str:
        """Return the mean speed, such as "812 images/s  61.2 MB/s", and the decoding speed if decoding limits it."""
        speed = f"{self.speed} images/s"
        if self._bytes:
            speed += f"  {size_text(self._bytes / max(self.seconds, 1e-9))}/s"
        if not self._decode_speed.is_bound:
            return speed
        return f"{speed}  waiting for decoding: {self._decode_speed.images_per_core_second:.0f} images/s per core"

    def _line(self) -> str:
        return f"{self._what} {self._done}/{self._total} {self._unit}  {self.rate()}"

    def _note(self) -> str:
        """Return a shorter text, for a terminal of 80 columns."""
        if not self._decode_speed.is_bound:
            return self.rate()
        return f"{self.speed}/s; decoding {self._decode_speed.images_per_core_second:.0f}/s per core"


class CountProgress(Progress):
    """Counts units of work."""

    def __init__(self, what: str, total: int, noun: str) -> None:
        """Start at 0 of `total`; `noun` is in the plural."""
        self._noun = noun
        note = TextColumn(noun)
        super().__init__(what, total, MofNCompleteColumn(), note, TimeRemainingColumn(), last_line=False)

    def advance(self, n: int = 1) -> None:
        """Count more units."""
        self._count(n)

    def _line(self) -> str:
        return f"{self._what} {self._done}/{self._total} {self._noun}"
