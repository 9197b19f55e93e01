"""Which images become which rows of a split."""

from collections.abc import Set
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from ..store.order import permutation
from .datasets import ImageList


@dataclass(frozen=True)
class Rows:
    """The rows of one split, in store order.

    Attributes:
        index: (n,) position of each row's image in the source's list.
        labels: (n,) int64.
        ids: n keys.
    """

    index: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    ids: list[str]

    def __len__(self) -> int:
        return len(self.index)


def choose_rows(images: ImageList, skipped: Set[str], limit: int | None, *, shuffled: bool, seed: int) -> Rows:
    """Leave out what is skipped, take a class-balanced part if asked, and fix the order.

    Args:
        images: one split, as its source lists it.
        skipped: ids to leave out.
        limit: images wanted at the most.
        shuffled: whether rows come in a seeded permutation; sources are sorted by class.
        seed: of the limit and of the permutation.
    """
    index = np.array([i for i, key in enumerate(images.ids) if key not in skipped], dtype=np.int64)
    if limit is not None and limit < len(index):
        index = index[_balanced(images.labels[index], limit, seed)]
    if shuffled:
        index = index[permutation(len(index), seed)]
    return Rows(index, images.labels[index], [images.ids[i] for i in index])


def _balanced(labels: npt.NDArray[np.int64], limit: int, seed: int) -> npt.NDArray[np.int64]:
    """Return `limit` sorted positions, as many of each class as of any other while they last."""
    order = permutation(len(labels), seed, 1)
    turn = np.empty(len(labels), dtype=np.int64)  # how many of its class come before an image, in seeded order
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        turn[of_class] = np.arange(len(of_class))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:limit])


def batches_of(n_rows: int, block_rows: int, batch_size: int) -> list[list[range]]:
    """Cut a split into blocks, and each block into batches: no batch crosses a block's end."""
    return [
        [
            range(first, min(first + batch_size, start + block_rows, n_rows))
            for first in range(start, min(start + block_rows, n_rows), batch_size)
        ]
        for start in range(0, ceil(n_rows / block_rows) * block_rows, block_rows)
    ]
