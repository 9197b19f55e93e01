"""Reading rows of one array, on a few threads, in the type of the caller's array."""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .array_spec import ArraySpec
from .contract import StoredArrays
from .extents import JOB_BYTES, N_THREADS, Part, parts_of, threads
from .layout import CHANNELS
from .order import RowNumbers
from .quantize import DTYPES, dequantize, from_bfloat16
from .small import read_channels

CONVERTED_BYTES = 2**20
"""Stored bytes converted at a time. A small number keeps extra memory small."""

Array = npt.NDArray[Any]


class ArrayReader:
    """Reads one view of one array.

    If the caller wants the stored type, rows go straight from the files to their places in the output. Otherwise the
    reading threads convert a few rows at a time.
    """

    def __init__(self, arrays: StoredArrays, spec: ArraySpec, view: int) -> None:
        """Prepare to read.

        Args:
            arrays: of the store.
            spec: of the array.
            view: index of the view.
        """
        self._arrays, self._spec, self._view = arrays, spec, view

    def read(self, index: RowNumbers, out: Array) -> None:
        """Read rows, in any order, into `out`: C-contiguous (rows, …), of the stored type or any other.

        Raises:
            StoreError: a block is missing or too short.
        """
        parts = list(self._parts(index))
        if len(parts) == 1:
            self._read_part(parts[0], out)
        else:
            finish([self._threads().submit(self._read_part, part, out) for part in parts])

    def start(self, index: RowNumbers, out: Array) -> list[Future[None]]:
        """Start to read as `read` does. `out` is filled once `finish` has waited for all futures."""
        return [self._threads().submit(self._read_part, part, out) for part in self._parts(index)]

    def expect(self, index: RowNumbers) -> None:
        """Prefetch, in the background, each block of which at least half will be read."""
        blocks, counts = np.unique(index // self._spec.block_rows, return_counts=True)
        for block in blocks[counts >= self._spec.block_rows / 2].tolist():
            self._threads().submit(self._arrays.prefetch, self._spec, self._view, block)

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of a row."""
        return self._spec.row

    def _parts(self, index: RowNumbers) -> list[Part]:
        arrays, spec = self._arrays, self._spec
        return list(
            parts_of(index, spec.block_rows, spec.row_bytes, arrays.n_threads, whole_blocks=arrays.whole_blocks)
        )

    def _threads(self) -> ThreadPoolExecutor:
        return threads(os.getpid(), self._arrays.n_threads)

    def _read_part(self, part: Part, out: Array) -> None:
        assert out.shape[1:] == self._spec.row, (out.shape, self._spec)
        assert out.flags.c_contiguous
        if out.dtype == self._spec.type.stored:
            self._arrays.read_rows(self._spec, self._view, part, out)
            return
        few_bytes = CONVERTED_BYTES if self._arrays.n_threads == N_THREADS else JOB_BYTES
        step = len(part.rows) if self._arrays.whole_blocks else max(1, few_bytes // self._spec.row_bytes)
        for start in range(0, len(part.rows), step):
            few = slice(start, start + step)
            out[part.places[few]] = self._converted(part.block, part.rows[few], out.dtype)

    def _converted(self, block: int, rows: RowNumbers, dtype: np.dtype[Any]) -> Array:
        """Read a few rows of one block and give them another type."""
        raw = self._few(block, rows)
        if self._spec.is_bfloat16:
            return from_bfloat16(raw).astype(dtype, copy=False)
        if self._spec.type is DTYPES["int8"]:
            return dequantize(raw, self._scale._few(block, rows), self._channels, dtype)
        return raw.astype(dtype)

    def _few(self, block: int, rows: RowNumbers) -> Array:
        raw = np.empty((len(rows), *self._spec.row), self._spec.type.stored)
        self._arrays.read_rows(self._spec, self._view, Part(block, rows, np.arange(len(rows))), raw)
        return raw

    @cached_property
    def _scale(self) -> "ArrayReader":
        return ArrayReader(self._arrays, self._spec.scale(), self._view)

    @cached_property
    def _channels(self) -> npt.NDArray[np.float32]:
        return read_channels(self._arrays, self._spec.name + CHANNELS, self._spec.row[-1])


def finish(started: Sequence[Future[None]]) -> None:
    """Wait for all reads, then raise the first failure. After that nothing writes to the caller's array."""
    wait(started)
    for read in started:
        read.result()
