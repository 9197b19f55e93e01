"""Decoding in worker processes. They write pixels into shared memory and report unreadable images."""

import logging
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import InputError
from ..runtime.workers import leave_the_group, n_cores
from .datasets import ImageSource
from .decoded import BadImage, DecodedBatch, DecodeSpeed, Warned
from .progress import ImageProgress
from .rows import SplitRows
from .slots import Slots, n_slots
from .views import Augmentation, Pixels, RandomCrops, Transform, turned_upright

logger = logging.getLogger(__name__)

CHUNK = 8
"""Images that a worker decodes before it reports. A small number keeps all cores busy on the first and last batch."""
AHEAD = 8
"""Chunks that each worker may decode ahead. They bridge short delays of the disk or the GPU."""
LOST_PROCESS = "DataLoader worker (pid"
WORKER_OPTIONS: dict[str, Any] = {
    "prefetch_factor": AHEAD,
    "worker_init_fn": lambda _: leave_the_group(),
    "multiprocessing_context": "fork",  # shares the image list and the slots; a fork drops the store's lock
}


class Wanted(NamedTuple):
    """Images of one batch.

    Attributes:
        split: split that lists them.
        rows: rows of the split.
        view: view of each image.
    """

    split: str
    rows: Sequence[int]
    view: int = 0


class Chunk(NamedTuple):
    """A few images of a batch.

    Attributes:
        batch: number of the batch.
        start: place of the first image in the batch.
        images: the images.
    """

    batch: int
    start: int
    images: Wanted


class DecodedChunk(NamedTuple):
    """A chunk whose pixels are in their slot.

    Attributes:
        bad: its unreadable images.
        seconds: CPU time of decoding.
        warned: warnings of the decoders, one per kind.
    """

    bad: list[BadImage]
    seconds: float
    warned: list[Warned]


class RowImages:
    """The pixels of (split, row, view)."""

    def __init__(
        self,
        source: ImageSource,
        rows: Mapping[str, SplitRows],
        transform: Transform,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Read from `source`; `augmentation` describes views from 1 on, or is None if only view 0 is read."""
        self._source, self._rows = source, rows
        self._pixels, self._upright = Pixels(transform), transform.upright
        self._crops = None if augmentation is None else RandomCrops(transform, augmentation)
        self.shape = (3, *transform.input_size)

    def name(self, split: str, row: int) -> str:
        """Return the id of an image."""
        return self._rows[split].ids[row]

    def pixels(self, split: str, row: int, view: int) -> Tensor | BadImage:
        """Return (3, H, W) uint8. Every decoding error becomes a `BadImage`, which the main process reports."""
        name = self.name(split, row)
        try:
            image = self._source.load(split, int(self._rows[split].index[row]))
            if self._upright:
                image = turned_upright(image)
            if view == 0:
                return self._pixels(image)
            assert self._crops is not None, view
            return self._crops(image, name, view)
        except Exception as error:
            return BadImage(split, name, f"{type(error).__name__}: {' '.join(str(error).split())}")


class Chunks(Dataset[DecodedChunk]):
    """Decodes chunk after chunk into the slots."""

    def __init__(self, images: RowImages, sizes: Sequence[int], workers: int) -> None:
        """Reserve slots for all batches that `workers` processes may begin.

        Args:
            images: images to decode.
            sizes: number of images of every batch that may come, in any order.
            workers: number of processes.
        """
        super().__init__()
        self._images, self._begun = images, deque[int]()
        smallest_first = [1, *sorted(sizes)]  # the most batches at once: a batch in use, and then the smallest ones
        worst = [number for number, size in enumerate(smallest_first) for _ in range(0, size, CHUNK)]
        self.slots = Slots(n_slots(worst, workers * AHEAD), (max(sizes), *images.shape))

    def __getitem__(self, chunk: Chunk) -> DecodedChunk:
        """Decode one chunk."""
        began, (split, rows, view) = time.thread_time(), chunk.images
        slot, bad, warned = self.slots[chunk.batch], list[BadImage](), dict[str, Warned]()
        for place, row in enumerate(rows, chunk.start):
            with warnings.catch_warnings(record=True) as caught:
                pixels = self._images.pixels(split, row, view)
            for each in caught:
                text = f"image {self._images.name(split, row)!r}: {each.category.__name__}: {each.message}"
                warned.setdefault(where := f"{each.filename}:{each.lineno}", Warned(where, text))
            if isinstance(pixels, BadImage):
                bad.append(pixels)
            else:
                slot[place] = pixels
        return DecodedChunk(bad, time.thread_time() - began, list(warned.values()))

    def load(self, batches: Iterable[Wanted], workers: int, *, pinned: bool) -> Iterator[DecodedBatch]:
        """Start the workers, and return an iterator over the batches. They are taken ahead as workers become free."""
        options = WORKER_OPTIONS if workers else {}
        decoded = iter(
            DataLoader(
                self,
                batch_size=None,
                sampler=self._cut(batches),
                num_workers=workers,
                collate_fn=lambda each: each,
                **options,
            )
        )
        if pinned:
            self.slots.pin()  # the workers are at work
        return self._assemble(decoded)

    def _cut(self, batches: Iterable[Wanted]) -> Iterator[Chunk]:
        for number, batch in enumerate(batches):
            self._begun.append(len(batch.rows))
            for start in range(0, len(batch.rows), CHUNK):
                yield Chunk(number, start, batch._replace(rows=batch.rows[start : start + CHUNK]))

    def _assemble(self, decoded: Iterator[DecodedChunk]) -> Iterator[DecodedBatch]:
        told = set[str]()
        try:
            for number, first in enumerate(decoded):
                n_images = self._begun.popleft()
                chunks = [first, *(next(decoded) for _ in range(CHUNK, n_images, CHUNK))]
                for each in (warned for chunk in chunks for warned in chunk.warned if warned.place not in told):
                    told.add(each.place)
                    logger.warning(f"{each.text} (similar warnings are not shown)")
                pixels = self.slots[number][:n_images]
                yield DecodedBatch(pixels, [b for chunk in chunks for b in chunk.bad], sum(c.seconds for c in chunks))
        finally:
            self.slots.unpin()


@contextmanager
def explained_loss() -> Iterator[None]:
    """Turn the error about a decoding process that was killed into an InputError. It may come up at any statement."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(LOST_PROCESS):
            raise
        raise InputError(
            f"a decoding process ended early ({' '.join(str(error).split())[:200]}); the system kills processes when "
            "memory runs out: give the command again with fewer --workers, or a smaller --batch-size"
        ) from error


def make_loader(
    images: RowImages, batches: Iterable[Wanted], *, workers: int, pinned: bool, sizes: Sequence[int] | None = None
) -> Iterator[DecodedBatch]:
    """Start decoding, and return an iterator over batches, in order.

    Requesting the next batch overwrites the pixels of the last one: normalise or copy them first.

    Args:
        images: images to decode.
        batches: wanted batches, each of at least one image.
        workers: number of decoding processes; with 0, this process decodes.
        pinned: whether a GPU will copy the pixels.
        sizes: number of images of every batch that may come, if `batches` are not known yet.
    """
    if sizes is None:
        batches = list(batches)
        sizes = [len(batch.rows) for batch in batches]
    waiting = iter(batches)
    if (first := next(waiting, None)) is None:
        return iter(())
    return Chunks(images, sizes, workers).load(chain([first], waiting), workers, pinned=pinned)


@explained_loss()
def find_bad_images(images: RowImages, wanted: Wanted, *, workers: int) -> list[BadImage]:
    """Decode all images once and return the unreadable ones."""
    size = CHUNK * max(workers, 1)
    batches = [wanted._replace(rows=wanted.rows[start : start + size]) for start in range(0, len(wanted.rows), size)]
    loader, bad = make_loader(images, batches, workers=workers, pinned=False), list[BadImage]()  # starts the workers
    with ImageProgress(len(wanted.rows), DecodeSpeed(), "check") as progress:
        for batch in loader:
            bad += batch.bad
            progress.advance(len(batch.pixels), 0)
    return bad


def n_workers(asked: int | None) -> int:
    """Return the number of decoding processes: `asked`, or one per core."""
    return asked if asked is not None else n_cores()
