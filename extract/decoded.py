"""Results of decoding: batches of pixels, images that cannot be read, and how fast both come."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be read.

    Attributes:
        split: that lists the image.
        id: key of the image in its split.
        reason: the decoder's error.
    """

    split: str
    id: str
    reason: str


class Warned(NamedTuple):
    """A warning of a decoder.

    Attributes:
        place: in its code; one image's warnings and another's are of one kind if they come from there.
        text: with the image that it is about.
    """

    place: str
    text: str


class DecodedBatch(NamedTuple):
    """A batch of decoded images.

    Attributes:
        pixels: (B, 3, H, W) uint8.
        bad: images of it that cannot be read; their pixels mean nothing.
        seconds: CPU time that decoding took.
    """

    pixels: Tensor
    bad: list[BadImage]
    seconds: float


@dataclass
class DecodeSpeed:
    """How fast images are read and decoded, and how long the backbone waits for them.

    Attributes:
        n_images: decoded so far.
        core_seconds: CPU time that decoding took, over all cores.
        waited: seconds that the main process waited for batches. The first batch does not count: it waits for the
            workers to start.
        elapsed: seconds since the first batch came.
    """

    n_images: int = 0
    core_seconds: float = 0.0
    waited: float = 0.0
    elapsed: float = 0.0

    @property
    def images_per_core_second(self) -> float:
        """Images that one core decodes in a second."""
        return self.n_images / max(self.core_seconds, 1e-9)

    @property
    def is_bound(self) -> bool:
        """Whether the backbone waits for images more than half of the time."""
        return self.waited > self.elapsed / 2

    def watch(self, batches: Iterable[DecodedBatch]) -> Iterator[Tensor | BadImage]:
        """Yield the pixels of each batch as it comes, or its first unreadable image, and keep count."""
        source, first = iter(batches), None
        while True:
            asked = time.monotonic()
            batch = next(source, None)
            came = time.monotonic()
            if batch is None:
                return
            if first is None:
                first = came
            else:
                self.waited, self.elapsed = self.waited + came - asked, came - first
            self.n_images, self.core_seconds = self.n_images + len(batch.pixels), self.core_seconds + batch.seconds
            yield batch.bad[0] if batch.bad else batch.pixels


class Stopwatch:
    """Adds up the seconds of the blocks that it is entered for."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.monotonic() - self._start


class Waits:
    """Seconds that the main process spends on, or waits for, each part of an extraction.

    Attributes:
        for_images: that are decoded.
        for_tokens: the backbone's work on a GPU, conversion, and the copy to this machine's memory.
        for_disk: places in the writer's queues, and at the end all that is not written yet.
    """

    def __init__(self) -> None:
        self.for_images, self.for_tokens, self.for_disk = DecodeSpeed(), Stopwatch(), Stopwatch()
