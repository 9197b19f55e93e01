"""Batches on the training device, read piece by piece into reused buffers.

The store on disk and tokens in memory are read alike: one piece, of whole batches, at a time goes into a buffer. For a
GPU there are two pinned buffers: the next piece is read while this one is copied and used.
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
    """Return buffers for reading: two pinned ones for a GPU; one for a CPU, which does one thing at a time."""
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
    """Yield the rows of each batch on the device and read ahead meanwhile.

    Args:
        reader: reads the rows.
        batches: row numbers.
        piece_rows: most rows in a piece; consecutive batches are read together up to this number.
        dtype: dtype of the rows as read.
        ring: the buffers. On the CPU a batch is a view of one of them, valid until the next is requested.
        as_tensor: turns a batch into a tensor.
        device: device of the batches.

    Raises:
        StoreError: a block is missing or damaged.
    """
    groups = group_batches(batches, piece_rows)
    pieces = read_ahead(reader, [np.concatenate(group) for group in groups], dtype, ring)
    tensors = (as_tensor(part) for group, piece in zip(groups, pieces, strict=True) for part in _cut(piece, group))
    yield from Upload(device).each(tensors)


def group_batches(batches: Sequence[RowNumbers], piece_rows: int) -> list[list[RowNumbers]]:
    """Group consecutive batches into pieces of at most `piece_rows` rows; a larger batch is a piece alone.

    Rows of one window are neighbours in their files, so a piece needs a few large reads instead of many small ones.
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
