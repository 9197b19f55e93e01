"""Copying rows of an array in memory to their places in the caller's array, on a few threads."""

import os
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from .extents import rows_per_job, threads
from .order import RowNumbers

Array = npt.NDArray[Any]


class MemoryReader:
    """Reads rows of an array in memory, with the interface by which `ArrayReader` reads rows of a store."""

    def __init__(self, values: Array) -> None:
        """Take the rows, (n, …); they are not copied."""
        self._values = np.ascontiguousarray(values)

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of a row."""
        return self._values.shape[1:]

    def start(self, index: RowNumbers, out: Array) -> list[Future[None]]:
        """Start to copy rows, in any order, into `out`: C-contiguous (rows, …), of the array's type.

        `out` is filled once `finish` has waited for all futures.
        """
        assert (out.shape, out.dtype) == ((len(index), *self.row), self._values.dtype), (out.shape, out.dtype)
        assert out.flags.c_contiguous
        step = rows_per_job(len(index), out[:1].nbytes)
        pool = threads(os.getpid())
        return [
            pool.submit(self._copy, index[start : start + step], out[start : start + step])
            for start in range(0, len(index), step)
        ]

    def expect(self, index: RowNumbers) -> None:
        """Do nothing: the rows are in memory already."""

    def _copy(self, index: RowNumbers, out: Array) -> None:
        np.take(self._values, index, axis=0, out=out, mode="clip")  # any other mode copies through a buffer
