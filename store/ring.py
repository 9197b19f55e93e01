"""Reading ahead: windows of rows into two buffers in turn, so that the disk works while the caller does."""

import mmap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from .layout import PATCH
from .reader import RowIndex, Split


class BufferRing:
    """Two page-aligned buffers that are used again, by one reader at a time. They grow to what is asked of them."""

    def __init__(self) -> None:
        self._maps = [mmap.mmap(-1, mmap.PAGESIZE) for _ in range(2)]

    def array(self, turn: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return an array over the buffer whose turn it is; its values are whatever was there."""
        n_bytes = int(np.prod(shape)) * dtype.itemsize
        if len(self._maps[turn % 2]) < n_bytes:
            self._maps[turn % 2] = mmap.mmap(-1, n_bytes)
            if hasattr(mmap, "MADV_HUGEPAGE"):  # the first read into a buffer of small pages takes four times as long
                self._maps[turn % 2].madvise(mmap.MADV_HUGEPAGE)
        return np.frombuffer(self._maps[turn % 2], dtype, int(np.prod(shape))).reshape(shape)


def read_ahead(
    split: Split, layer: int, windows: Sequence[RowIndex], ring: BufferRing, *, kind: str = PATCH, view: int = 0
) -> Iterator[npt.NDArray[Any]]:
    """Yield the rows of each window, in order, while the next window is being read.

    Args:
        split: of an open store.
        layer: index.
        windows: row indices, as `Split.tokens` takes them.
        ring: the buffers; what is yielded is a view of one, good until the next is asked for.
        kind: array to read.
        view: index of the view.

    Raises:
        StoreError: a block is missing or damaged.
    """
    row = split.shape(layer).row_shape(kind)

    def read(turn: int) -> npt.NDArray[Any]:
        out = ring.array(turn, (len(windows[turn]), *row), split.dtype(kind))
        return split.tokens(layer, windows[turn], view=view, kind=kind, out=out)

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(read, 0) if windows else None
        for turn in range(len(windows)):
            assert ahead is not None
            window = ahead.result()
            ahead = pool.submit(read, turn + 1) if turn + 1 < len(windows) else None
            yield window
