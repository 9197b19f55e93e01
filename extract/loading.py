"""Decoding in worker processes. They write pixels into shared memory and report unreadable images."""

import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

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
    """Images `start` to `stop` of a batch."""

    batch: int
    start: int
    stop: int


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

    def __init__(self, images: RowImages, batches: Sequence[Wanted], workers: int) -> None:
        """Cut batches into chunks, and reserve slots for all batches that `workers` processes may begin."""
        super().__init__()
        self._images, self._batches = images, batches
        self._chunks = [
            Chunk(number, start, min(start + CHUNK, len(batch.rows)))
            for number, batch in enumerate(batches)
            for start in range(0, len(batch.rows), CHUNK)
        ]
        largest = max(len(batch.rows) for batch in batches)
        begun = n_slots([chunk.batch for chunk in self._chunks], workers * AHEAD)
        self.slots = Slots(begun, (largest, *images.shape))

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: int) -> DecodedChunk:
        """Decode one chunk."""
        start, chunk = time.thread_time(), self._chunks[index]
        split, rows, view = self._batches[chunk.batch]
        slot, bad, warned = self.slots[chunk.batch], list[BadImage](), dict[str, Warned]()
        for place in range(chunk.start, chunk.stop):
            with warnings.catch_warnings(record=True) as caught:
                pixels = self._images.pixels(split, rows[place], view)
            for each in caught:
                text = f"image {self._images.name(split, rows[place])!r}: {each.category.__name__}: {each.message}"
                warned.setdefault(where := f"{each.filename}:{each.lineno}", Warned(where, text))
            if isinstance(pixels, BadImage):
                bad.append(pixels)
            else:
                slot[place] = pixels
        return DecodedChunk(bad, time.thread_time() - start, list(warned.values()))

    def load(self, workers: int, *, pinned: bool) -> Iterator[DecodedBatch]:
        """Start the workers, and return an iterator over the batches."""
        options = WORKER_OPTIONS if workers else {}
        decoded = iter(DataLoader(self, batch_size=None, num_workers=workers, collate_fn=lambda each: each, **options))
        if pinned:
            self.slots.pin()  # the workers are at work
        return self._assemble(decoded)

    def _assemble(self, decoded: Iterator[DecodedChunk]) -> Iterator[DecodedBatch]:
        told = set[str]()
        try:
            for number, batch in enumerate(self._batches):
                chunks = [next(decoded) for _ in range(0, len(batch.rows), CHUNK)]
                for each in (warned for chunk in chunks for warned in chunk.warned if warned.place not in told):
                    told.add(each.place)
                    logger.warning(f"{each.text} (similar warnings are not shown)")
                pixels = self.slots[number][: len(batch.rows)]
                yield DecodedBatch(pixels, [b for chunk in chunks for b in chunk.bad], sum(c.seconds for c in chunks))
        finally:
            self.slots.unpin()


def make_loader(images: RowImages, batches: Sequence[Wanted], *, workers: int, pinned: bool) -> Iterator[DecodedBatch]:
    """Start decoding, and return an iterator over batches, in order.

    Requesting the next batch overwrites the pixels of the last one: normalise or copy them first.

    Args:
        images: images to decode.
        batches: wanted batches, each of at least one image.
        workers: number of decoding processes; with 0, this process decodes.
        pinned: whether a GPU will copy the pixels.
    """
    return Chunks(images, batches, workers).load(workers, pinned=pinned) if batches else iter(())


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
