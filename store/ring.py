"""Reading ahead: pieces of rows, in order, into buffers that are reused."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, wait
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .array_reader import finish
from .memory import page_aligned
from .order import RowNumbers

Array = npt.NDArray[Any]
Filling = tuple[Array, list[Future[None]]]
"""An array, and the reads that fill it."""


class RowReader(Protocol):
    """Reads rows of one array: from a store (`ArrayReader`) or from memory (`MemoryReader`)."""

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of a row."""

    def start(self, index: RowNumbers, out: Array) -> list[Future[None]]:
        """Start to read rows, in any order, into `out`. `out` is filled once `finish` has waited for all futures."""

    def expect(self, index: RowNumbers) -> None:
        """Prefetch, in the background, rows that will be read soon."""


class BufferRing:
    """Buffers that take turns, for one reader at a time. They grow to the largest piece asked for."""

    def __init__(self, n_buffers: int = 1, allocate: Callable[[int], Array] = page_aligned) -> None:
        """Start without memory.

        Args:
            n_buffers: the caller holds one buffer while the others are filled. With a single buffer, only the kernel
                reads ahead, and a piece is copied from its page cache when it is asked for.
            allocate: returns n bytes of memory, as uint8.
        """
        self.n_buffers = n_buffers
        self._allocate = allocate
        self._memory = [np.empty(0, np.uint8)] * n_buffers
        self._reads: list[list[Future[None]]] = [[] for _ in range(n_buffers)]

    def fill(self, turn: int, reader: RowReader, index: RowNumbers, dtype: np.dtype[Any]) -> Filling:
        """Wait until nothing reads into the buffer whose turn it is, then start to read rows into it."""
        place = turn % self.n_buffers
        wait(self._reads[place])
        out = self.array(turn, (len(index), *reader.row), dtype)
        self._reads[place] = reader.start(index, out)
        return out, self._reads[place]

    def array(self, turn: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array over the buffer whose turn it is. Its values are left over from the last turn."""
        n_bytes, place = prod(shape) * dtype.itemsize, turn % self.n_buffers
        if len(self._memory[place]) < n_bytes:
            self._memory[place] = np.empty(0, np.uint8)  # free the old buffer before allocating the new one
            self._memory[place] = self._allocate(n_bytes)
        return self._memory[place][:n_bytes].view(dtype).reshape(shape)


def read_ahead(
    reader: RowReader, pieces: Sequence[RowNumbers], dtype: np.dtype[Any], ring: BufferRing
) -> Generator[Array, None, None]:
    """Yield the rows of each piece, in order, while the next pieces are being read.

    Args:
        reader: of the array.
        pieces: row numbers.
        dtype: type that rows are read as.
        ring: the buffers. Each piece is a view of one buffer, valid until the next piece is asked for.

    Raises:
        StoreError: a block is missing or damaged.
    """
    ahead: deque[Filling] = deque()

    def begin(turn: int) -> None:
        if turn < len(pieces):
            ahead.append(ring.fill(turn, reader, pieces[turn], dtype))

    try:
        for turn in range(ring.n_buffers - 1):
            begin(turn)
        for turn in range(len(pieces)):
            following = turn + ring.n_buffers
            begin(following - 1)  # the caller gave this buffer back when it asked for the next piece
            out, reads = ahead.popleft()
            finish(reads)
            if following < len(pieces):
                reader.expect(pieces[following])
            yield out
    finally:  # no read may still write to the buffers when another reader takes them
        wait([read for _, reads in ahead for read in reads])
