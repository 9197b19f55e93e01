"""Memory to read into."""

import mmap
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}


def page_aligned(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Return n bytes that begin on a page, on large pages where there are any.

    Both count: the kernel copies less than half as fast to the addresses that numpy gives large arrays, 16 bytes
    after a page, and the first read into small pages takes four times as long as into large ones.
    """
    memory = mmap.mmap(-1, max(1, n_bytes), **PRIVATE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8, n_bytes)


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return an array like numpy's `empty`, on a page of its own."""
    return page_aligned(prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
