"""Memory to read into."""

import mmap
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

LARGE_PAGE = 2**21
"""Bytes of a large page, on x86 and usually on ARM."""
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}


def page_aligned(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Return n bytes that begin on a page; two megabytes or more are whole large pages, if the system has them.

    Both matter. numpy places large arrays 16 bytes after the start of a page, and the kernel copies less than half as
    fast to such addresses. The first read into small pages takes four times as long as into large pages. A large page
    begins at a multiple of its size, and a mapping does not: its ends would be small pages.
    """
    if n_bytes < LARGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.frombuffer(mmap.mmap(-1, max(1, n_bytes), **PRIVATE), np.uint8, n_bytes)
    n_pages = -(-n_bytes // LARGE_PAGE)
    memory = mmap.mmap(-1, (n_pages + 1) * LARGE_PAGE, **PRIVATE)
    memory.madvise(mmap.MADV_HUGEPAGE)
    everything = np.frombuffer(memory, np.uint8)
    start = -everything.ctypes.data % LARGE_PAGE
    return everything[start : start + n_bytes]


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return an array like numpy's `empty`, on a page of its own."""
    return page_aligned(prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
