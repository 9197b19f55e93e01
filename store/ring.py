"""Reading ahead: pieces of an order of rows into two buffers in turn, so that the disk works while the caller does."""

import mmap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]


def page_aligned(n_bytes: int) -> Array:
    """Return n bytes of memory of their own, on large pages where there are any."""
    memory = mmap.mmap(-1, n_bytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # the first read into a buffer of small pages takes four times as long
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


class BufferRing:
    """Two buffers that are used again, by one reader at a time. They grow to what is asked of them."""

    def __init__(self, allocate: Callable[[int], Array] = page_aligned) -> None:
        """Start with nothing; `allocate` returns n bytes of memory, as uint8."""
        self._allocate = allocate
        self._memory = [np.empty(0, np.uint8)] * 2

    def array(self, turn: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array over the buffer whose turn it is; its values are whatever was there."""
        n_bytes = prod(shape) * dtype.itemsize
        if len(self._memory[turn % 2]) < n_bytes:
            self._memory[turn % 2] = np.empty(0, np.uint8)  # the old one goes before the new one comes
            self._memory[turn % 2] = self._allocate(n_bytes)
        return self._memory[turn % 2][:n_bytes].view(dtype).reshape(shape)


def read_ahead(
    read: Callable[[Index, Array], object],
    pieces: Sequence[Index],
    row: tuple[int, ...],
    dtype: np.dtype[Any],
    ring: BufferRing,
) -> Iterator[Array]:
    """Yield the rows of each piece, in order, while the next piece is being read.

    Args:
        read: takes row numbers and the array to read them into, such as `Split.tokens` of a layer.
        pieces: row numbers.
        row: shape of a row.
        dtype: type that rows are read as.
        ring: the buffers; what is yielded is a view of one, good until the next is asked for.
    """

    def fill(turn: int) -> Array:
        out = ring.array(turn, (len(pieces[turn]), *row), dtype)
        read(pieces[turn], out)
        return out

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(fill, 0) if pieces else None
        for turn in range(len(pieces)):
            assert ahead is not None
            piece = ahead.result()
            ahead = reader.submit(fill, turn + 1) if turn + 1 < len(pieces) else None
            yield piece
