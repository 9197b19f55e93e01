"""The rows of a split: choice of images, their order, their batches."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from .datasets import ImageList


@dataclass(frozen=True)
class SplitRows:
    """The rows of one split, in store order.

    Attributes:
        index: (n,) position of each row's image in the source's list.
        labels: (n,) int64, or (n, classes) int64 of 0 and 1.
        ids: n keys.
    """

    index: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    ids: list[str]

    def __len__(self) -> int:
        return len(self.index)


def choose_rows(
    images: ImageList,
    skipped: Set[str],
    limit: int | None,
    *,
    shuffled: bool,
    seed: int,
    earlier: Sequence[int] = (),
) -> SplitRows:
    """Leave out skipped images, draw `limit` images balanced over classes, and fix the order.

    The images of a limit are among those of a larger one. So a store can grow: the rows of each earlier limit come
    first, in their order, and then those that the larger limit adds, in seeded order again.

    A limit below the number of classes keeps some classes. The seed and the class alone decide which, so all splits
    keep the same ones. Images with several labels cannot be balanced: the seed alone draws them.

    Args:
        images: one split, as its source lists it.
        skipped: ids to leave out.
        limit: largest number of images, or None for all.
        shuffled: whether the seed permutes the rows. Sources are often sorted by class.
        seed: seed of the limit and of the permutation.
        earlier: smaller limits that the store had before, in rising order.
    """
    index = np.array([i for i, key in enumerate(images.ids) if key not in skipped], dtype=np.int64)
    keys = random_keys([images.ids[i] for i in index], seed)
    ranked = np.arange(len(index))
    if earlier or (limit is not None and limit < len(index)):
        ranked = _balanced(class_of_each(images.labels[index]), keys, seed)
    ends = [0, *earlier, limit]
    parts = [np.sort(ranked[start:end]) for start, end in pairwise(ends)]
    if shuffled:
        parts = [part[np.argsort(keys[part], kind="stable")] for part in parts]
    index = index[np.concatenate(parts)]
    return SplitRows(index, images.labels[index], [images.ids[i] for i in index])


def class_of_each(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return (n,) the class to balance or stratify by: a single class for all images with several labels each."""
    return labels if labels.ndim == 1 else np.zeros(len(labels), dtype=np.int64)


def random_keys(ids: Sequence[str], seed: int) -> npt.NDArray[np.uint64]:
    """Return a sort key per id. Leaving out one image does not change the order of the others."""
    return np.array([xxh3_64_intdigest(key.encode(), seed=seed) for key in ids], dtype=np.uint64)


def _balanced(labels: npt.NDArray[np.int64], keys: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.int64]:
    """Return all positions so that the first n have equally many per class, until a class runs out, for every n."""
    classes, class_of = np.unique(labels, return_inverse=True)
    class_keys = random_keys([str(label) for label in classes], seed)[class_of]
    turn = np.empty(len(labels), dtype=np.int64)  # rank of each image within its class, in seeded order
    for label in classes:
        of_class = np.flatnonzero(labels == label)
        turn[of_class[np.argsort(keys[of_class], kind="stable")]] = np.arange(len(of_class))
    return np.lexsort((keys, class_keys * (turn == 0), turn))


def even_batch_size(block_rows: int, batch_size: int) -> int:
    """Return the largest size up to `batch_size` that cuts a block into nearly equal batches, with little padding."""
    return ceil(block_rows / ceil(block_rows / batch_size))


def batches_of(n_rows: int, block_rows: int, batch_size: int) -> list[list[range]]:
    """Cut a split into blocks, and each block into batches. No batch crosses the end of a block."""
    return [
        [
            range(first, min(first + batch_size, start + block_rows, n_rows))
            for first in range(start, min(start + block_rows, n_rows), batch_size)
        ]
        for start in range(0, n_rows, block_rows)
    ]
