"""Results of decoding: batches of pixels, unreadable images, and the decoding speed."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be read.

    Attributes:
        split: split that lists the image.
        id: key of the image in its split.
        reason: the decoder's error.
    """

    split: str
    id: str
    reason: str


class Warned(NamedTuple):
    """A warning of a decoder.

    Attributes:
        place: line of the decoder's code. Warnings from one line are of one kind.
        text: the warning, with the id of the image.
    """

    place: str
    text: str


class DecodedBatch(NamedTuple):
    """A batch of decoded images.

    Attributes:
        pixels: (B, 3, H, W) uint8.
        bad: its unreadable images; their pixels mean nothing.
        seconds: CPU time of decoding.
    """

    pixels: Tensor
    bad: list[BadImage]
    seconds: float


@dataclass
class DecodeSpeed:
    """Speed of reading and decoding, and the time that the backbone waits for images.

    Attributes:
        n_images: images decoded so far.
        core_seconds: CPU time of decoding, over all cores.
        waited: seconds that the main process waited for batches. The first batch does not count: it waits for the
            workers to start.
        elapsed: seconds since the first batch arrived.
    """

    n_images: int = 0
    core_seconds: float = 0.0
    waited: float = 0.0
    elapsed: float = 0.0

    @property
    def images_per_core_second(self) -> float:
        """Images decoded per second and core."""
        return self.n_images / max(self.core_seconds, 1e-9)

    @property
    def is_bound(self) -> bool:
        """Whether the backbone waits for images more than half of the time."""
        return self.waited > self.elapsed / 2

    def watch(self, batches: Iterable[DecodedBatch]) -> Iterator[Tensor | BadImage]:
        """Yield the pixels of each batch, or its first unreadable image, and count images and time."""
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
    """A context manager that adds up the seconds spent inside it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.monotonic() - self._start


class Waits:
    """Seconds that the main process spends on, or waits for, each part of an extraction.

    Attributes:
        for_images: wait for decoded images.
        for_tokens: wait for the backbone on a GPU, conversion, and the copy to CPU memory.
        for_disk: wait for space in the writer's queues, and at the end for all remaining writes.
    """

    def __init__(self) -> None:
        self.for_images, self.for_tokens, self.for_disk = DecodeSpeed(), Stopwatch(), Stopwatch()
