"""Reading ahead: pieces of an order of rows into a few buffers in turn, so that the disk works while the caller does."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from .memory import page_aligned

N_BUFFERS = 3
"""One that the caller has, two that are being read: the threads have work while they hand one over."""

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]


class BufferRing:
    """A few buffers that are used again, by one reader at a time. They grow to what is asked of them."""

    def __init__(self, allocate: Callable[[int], Array] = page_aligned) -> None:
        """Start with nothing; `allocate` returns n bytes of memory, as uint8."""
        self._allocate = allocate
        self._memory = [np.empty(0, np.uint8)] * N_BUFFERS

    def array(self, turn: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array over the buffer whose turn it is; its values are whatever was there."""
        n_bytes, place = prod(shape) * dtype.itemsize, turn % N_BUFFERS
        if len(self._memory[place]) < n_bytes:
            self._memory[place] = np.empty(0, np.uint8)  # the old one goes before the new one comes
            self._memory[place] = self._allocate(n_bytes)
        return self._memory[place][:n_bytes].view(dtype).reshape(shape)


def read_ahead(
    start: Callable[[Index, Array], list[Future[None]]],
    pieces: Sequence[Index],
    row: tuple[int, ...],
    dtype: np.dtype[Any],
    ring: BufferRing,
) -> Iterator[Array]:
    """Yield the rows of each piece, in order, while the next pieces are being read.

    Args:
        start: starts to read row numbers into an array, such as `Split.start_reading` of a layer.
        pieces: row numbers.
        row: shape of a row.
        dtype: type that rows are read as.
        ring: the buffers; what is yielded is a view of one, good until the next is asked for.
    """
    ahead: deque[tuple[Array, list[Future[None]]]] = deque()

    def begin(turn: int) -> None:
        if turn < len(pieces):
            out = ring.array(turn, (len(pieces[turn]), *row), dtype)
            ahead.append((out, start(pieces[turn], out)))

    try:
        for turn in range(N_BUFFERS - 1):
            begin(turn)
        for turn in range(len(pieces)):
            begin(turn + N_BUFFERS - 1)  # into the buffer that the caller gave back by asking for this one
            out, reads = ahead.popleft()
            for read in reads:
                read.result()
            yield out
    finally:  # nothing may be read into the buffers once they are somebody else's
        wait([read for _, reads in ahead for read in reads])
