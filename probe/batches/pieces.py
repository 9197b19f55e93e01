"""From a reader of rows to batches on the training device, by way of buffers that are used again.

The store on disk and tokens in memory are read alike: a piece of whole batches at a time goes into a buffer. For a
GPU the buffers are pinned and there are two, so that the next piece is read while this one is copied and used.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...store.order import RowNumbers
from ...store.ring import BufferRing, RowReader, read_ahead
from .upload import Upload


class Rings(defaultdict[tuple[int, str], BufferRing]):
    """Buffers for reading, by layer and kind; streams that take turns share them."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(lambda: make_ring(device))


def make_ring(device: torch.device) -> BufferRing:
    """Return buffers for reading: for a GPU two that are pinned, for a CPU one, since it is busy with one thing."""
    if device.type != "cuda":
        return BufferRing()
    return BufferRing(2, lambda n_bytes: torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True).numpy())


def read_batches(
    reader: RowReader,
    batches: Sequence[RowNumbers],
    piece_rows: int,
    *,
    dtype: np.dtype[Any],
    ring: BufferRing,
    as_tensor: Callable[[npt.NDArray[Any]], Tensor],
    device: torch.device,
) -> Iterator[Tensor]:
    """Yield the rows of each batch on the device, while the next ones are being read.

    Args:
        reader: of the rows.
        batches: row numbers.
        piece_rows: consecutive batches that hold no more rows than this are read together.
        dtype: type that rows are read as.
        ring: the buffers. On the CPU a batch is a view of one of them, good until the next is asked for.
        as_tensor: makes a batch a tensor.
        device: where batches are wanted.

    Raises:
        StoreError: a block is missing or damaged.
    """
    groups = group_batches(batches, piece_rows)
    pieces = read_ahead(reader, [np.concatenate(group) for group in groups], dtype, ring)
    tensors = (as_tensor(part) for group, piece in zip(groups, pieces, strict=True) for part in _cut(piece, group))
    yield from Upload(device).each(tensors)


def group_batches(batches: Sequence[RowNumbers], piece_rows: int) -> list[list[RowNumbers]]:
    """Put consecutive batches together while they hold no more rows than a piece may.

    Rows of one window that are read together follow one another in their files: a few large reads instead of many.
    """
    groups: list[list[RowNumbers]] = []
    n_rows = piece_rows
    for rows in batches:
        n_rows += len(rows)
        if n_rows > piece_rows:
            groups.append([])
            n_rows = len(rows)
        groups[-1].append(rows)
    return groups


def _cut(piece: npt.NDArray[Any], group: Sequence[RowNumbers]) -> list[npt.NDArray[Any]]:
    return np.split(piece, np.cumsum([len(rows) for rows in group])[:-1])
