"""Reading rows of block files into the caller's array: one `preadv` per run, no byte copied twice.

Consecutive rows in the file are one run. Its vectors point at each row's place in the caller's array. So one call
reads rows in order, shuffled rows and a few rows.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import StoreError
from .order import RowNumbers

N_THREADS = max(2, min(8, len(os.sched_getaffinity(0))))
"""Reading threads. More threads than cores slow one another: each returns to Python after every run."""
JOB_BYTES, LEAST_BYTES = 8 * 2**20, 2**20
"""Most and fewest bytes per job of one thread. Even the fewest take long compared with the overhead of a job."""
MAX_VECTORS = 1024
"""IOV_MAX of Linux, the most vectors per call."""


class Extent(NamedTuple):
    """A run of bytes in a file: the rows of one block."""

    path: Path
    offset: int
    size: int


class Part(NamedTuple):
    """Rows to read from one block, ascending, and their places in the output."""

    block: int
    rows: RowNumbers
    places: RowNumbers


def parts_of(
    index: RowNumbers, block_rows: int, row_bytes: int, n_threads: int = N_THREADS, *, whole_blocks: bool = False
) -> Iterator[Part]:
    """Cut row numbers, in any order, into parts that keep all threads equally busy. Each part lies in one block.

    Args:
        index: row numbers.
        block_rows: rows per block.
        row_bytes: bytes per row.
        n_threads: number of threads.
        whole_blocks: whether the rows of one block stay together, because any of them cost the whole block.
    """
    order = np.argsort(index, kind="stable")
    blocks, rows = np.divmod(index[order], block_rows)
    cuts = [*np.flatnonzero(np.diff(blocks, prepend=-1)), len(order)]
    step = block_rows * len(index) if whole_blocks else rows_per_job(len(index), row_bytes, n_threads)
    for first, stop in pairwise(cuts):
        for start in range(first, stop, step):
            part = slice(start, min(start + step, stop))
            yield Part(int(blocks[first]), rows[part], order[part])


def rows_per_job(n_rows: int, row_bytes: int, n_threads: int = N_THREADS) -> int:
    """Return the number of rows per job, chosen to give every thread the same number of jobs."""
    n_bytes = n_rows * row_bytes
    n_rounds = max(1, -(-n_bytes // (n_threads * JOB_BYTES)))
    n_jobs = min(n_threads * n_rounds, max(1, n_bytes // LEAST_BYTES))
    return max(1, -(-n_rows // n_jobs))


def read_part(extent: Extent, part: Part, row_bytes: int, out: memoryview) -> None:
    """Read rows of one block.

    Args:
        extent: the place of the block's rows.
        part: the rows, and their places in `out`.
        row_bytes: bytes per row.
        out: the whole output as bytes.

    Raises:
        StoreError: the file is missing or too short.
    """
    try:
        fd = os.open(extent.path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe in its place would wait for a writer
    except FileNotFoundError:
        raise StoreError(
            f"block file {str(extent.path)!r} is missing; run the same probe extract again, or probe verify --repair"
        ) from None
    except OSError as error:
        raise _unreadable(extent, error) from error
    try:
        if _is_sparse(part.rows):
            _expect_random_reads(fd)
        for first, vectors in _runs(part, row_bytes, out):
            _read_fully(fd, extent, extent.offset + first * row_bytes, vectors)
    except OSError as error:
        raise _unreadable(extent, error) from error
    finally:
        os.close(fd)


def _unreadable(extent: Extent, error: OSError) -> StoreError:
    return StoreError(
        f"cannot read block file {str(extent.path)!r}: {error.strerror}; probe verify names all such files"
    )


def fetch(extent: Extent) -> None:
    """Ask the kernel to read a block into its page cache, if the block exists and the system can."""
    if hasattr(os, "posix_fadvise") and extent.path.exists():
        with open(extent.path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), extent.offset, extent.size, os.POSIX_FADV_WILLNEED)


@cache
def threads(process: int, n_threads: int = N_THREADS) -> ThreadPoolExecutor:
    """Return the reading threads of this process, given its id. A fork does not inherit its parent's threads."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="token-reader")


def _is_sparse(rows: RowNumbers) -> bool:
    return len(rows) > 0 and bool(rows[-1] - rows[0] >= 2 * len(rows))


def _expect_random_reads(fd: int) -> None:
    """Keep the kernel from reading ahead into rows that nobody asked for."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)


def _runs(part: Part, row_bytes: int, out: memoryview) -> Iterator[tuple[int, list[memoryview]]]:
    """Yield (first row, vectors) per run. Rows that are neighbours in the file and in the output share a vector."""
    jumps = np.flatnonzero((np.diff(part.rows) != 1) | (np.diff(part.places) != 1)) + 1
    starts = np.concatenate([[0], jumps])
    counts = np.diff(starts, append=len(part.rows))
    rows, places = part.rows[starts].tolist(), part.places[starts].tolist()
    vectors: list[memoryview] = []
    first = following = rows[0]
    for row, place, count in zip(rows, places, counts.tolist(), strict=True):
        if row != following or len(vectors) == MAX_VECTORS:
            yield first, vectors
            first, vectors = row, []
        vectors.append(out[place * row_bytes : (place + count) * row_bytes])
        following = row + count
    yield first, vectors


def _read_fully(fd: int, extent: Extent, offset: int, vectors: list[memoryview]) -> None:
    """Call `preadv` until every vector is full; the kernel may return less per call."""
    wanted = sum(map(len, vectors))
    while (n_read := os.preadv(fd, vectors, offset)) < wanted:
        if n_read == 0:
            raise StoreError(
                f"{str(extent.path)!r} ends at byte {os.fstat(fd).st_size}, short of {extent.offset + extent.size}: "
                "it is damaged; probe verify --repair mends it"
            )
        offset, wanted = offset + n_read, wanted - n_read
        full = 0
        while n_read >= len(vectors[full]):
            n_read -= len(vectors[full])
            full += 1
        vectors = [vectors[full][n_read:], *vectors[full + 1 :]]


def as_bytes(array: npt.NDArray[Any]) -> memoryview:
    """Return the memory of a C-contiguous array."""
    return array.reshape(-1).view(np.uint8).data
