"""What comes back from decoding, and how fast: batches of pixels, images that cannot be read, a stop-watch."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class BadImage:
    """An image that could not be read, and why."""

    split: str
    id: str
    reason: str


class Loaded(NamedTuple):
    """A batch that was decoded.

    Attributes:
        pixels: (B, 3, H, W) uint8.
        seconds: that a core worked on it.
    """

    pixels: Tensor
    seconds: float


@dataclass
class Decoding:
    """How fast images are read and decoded, and how long the backbone waits for them.

    Attributes:
        n_images: that were loaded.
        core_seconds: that cores worked on them.
        waited: seconds that the main process waited for batches, the first one apart: it waits for workers to start.
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

    def watch(self, loaded: Iterable[Loaded | BadImage]) -> Iterator[Tensor | BadImage]:
        """Yield the pixels of each batch as it comes, and keep count."""
        batches, first = iter(loaded), None
        while True:
            asked = time.monotonic()
            batch = next(batches, None)
            came = time.monotonic()
            if batch is None:
                return
            if first is None:
                first = came
            else:
                self.waited, self.elapsed = self.waited + came - asked, came - first
            if isinstance(batch, Loaded):
                self.n_images, self.core_seconds = self.n_images + len(batch.pixels), self.core_seconds + batch.seconds
            yield batch.pixels if isinstance(batch, Loaded) else batch
