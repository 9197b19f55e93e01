"""Decoding in worker processes. They return pixels, and the names of images that cannot be read."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..runtime.workers import leave_the_group, n_cores
from .datasets import ImageSource
from .decoded import BadImage, DecodedBatch
from .rows import SplitRows
from .views import Augmentation, Pixels, RandomCrops, Transform, turned_upright

RowKey = tuple[str, int, int]
WORKER_OPTIONS: dict[str, Any] = {
    "prefetch_factor": 2,
    "worker_init_fn": lambda _: leave_the_group(),
    "multiprocessing_context": "fork",  # shares the image list; a fork drops the store's lock
}


class RowImages(Dataset[Tensor | BadImage]):
    """The pixels of (split, row, view)."""

    def __init__(
        self,
        source: ImageSource,
        rows: Mapping[str, SplitRows],
        transform: Transform,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Read from `source`; `augmentation` is that of views from 1 on, or None if view 0 is all."""
        super().__init__()
        self._source, self._rows = source, rows
        self._pixels, self._upright = Pixels(transform), transform.upright
        self._crops = None if augmentation is None else RandomCrops(transform, augmentation)

    def __getitem__(self, key: RowKey) -> Tensor | BadImage:
        """Return (3, H, W) uint8. Any error of any decoder becomes a `BadImage`: the main process reports it."""
        split, row, view = key
        name = self._rows[split].ids[row]
        try:
            image = self._source.load(split, int(self._rows[split].index[row]))
            if self._upright:
                image = turned_upright(image)
            if view == 0:
                return self._pixels(image)
            assert self._crops is not None, view
            return self._crops(image, name, view)
        except Exception as error:
            return BadImage(split, name, f"{type(error).__name__}: {error}")

    def __getitems__(self, keys: Sequence[RowKey]) -> list[tuple[Tensor | BadImage, float]]:
        """Return the items of a batch, each with the CPU time of this thread in seconds."""
        return [self._timed(key) for key in keys]

    def _timed(self, key: RowKey) -> tuple[Tensor | BadImage, float]:
        start = time.thread_time()
        return self[key], time.thread_time() - start


def make_loader(
    images: RowImages, batches: list[list[RowKey]], *, workers: int, pinned: bool
) -> Iterable[DecodedBatch | BadImage]:
    """Load batches in order. In place of a batch with unreadable images comes the first of those."""
    options = WORKER_OPTIONS if workers else {}
    return DataLoader(
        images, batch_sampler=batches, collate_fn=_collate, num_workers=workers, pin_memory=pinned, **options
    )


def find_bad_images(images: RowImages, keys: list[RowKey], *, workers: int) -> list[BadImage]:
    """Decode all images once and return those that cannot be read."""
    options = WORKER_OPTIONS if workers else {}
    batches = [keys[start : start + 64] for start in range(0, len(keys), 64)]
    loader = DataLoader(images, batch_sampler=batches, collate_fn=_only_bad, num_workers=workers, **options)
    return [bad for batch in loader for bad in batch]


def _collate(timed: list[tuple[Tensor | BadImage, float]]) -> DecodedBatch | BadImage:
    bad = next((item for item, _ in timed if isinstance(item, BadImage)), None)
    pixels = [item for item, _ in timed if isinstance(item, Tensor)]
    return bad or DecodedBatch(torch.stack(pixels), sum(seconds for _, seconds in timed))


def _only_bad(timed: list[tuple[Tensor | BadImage, float]]) -> list[BadImage]:
    return [item for item, _ in timed if isinstance(item, BadImage)]


def n_workers(asked: int | None) -> int:
    """Return how many processes decode images: as many as there are cores unless asked otherwise."""
    return asked if asked is not None else n_cores()
