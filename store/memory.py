"""Memory to read into."""

import mmap
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}


def page_aligned(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Return n bytes that begin on a page, on large pages if the system has them.

    Both matter. numpy places large arrays 16 bytes after the start of a page, and the kernel copies less than half as
    fast to such addresses. The first read into small pages takes four times as long as into large pages.
    """
    memory = mmap.mmap(-1, max(1, n_bytes), **PRIVATE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8, n_bytes)


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return an array like numpy's `empty`, on a page of its own."""
    return page_aligned(prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
