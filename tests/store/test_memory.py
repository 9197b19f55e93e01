"""Arrays on pages of their own."""

import mmap

import numpy as np
import pytest

from tokenprobe.store.memory import aligned_empty, page_aligned


@pytest.mark.parametrize("n_bytes", [0, 1, 4096, 2**21 - 1, 2**21, 5_000_001])
def test_bytes_begin_on_a_page_and_can_be_written(n_bytes: int) -> None:
    """Those of large memory begin on a large page."""
    memory = page_aligned(n_bytes)
    assert memory.shape == (n_bytes,)
    page = 2**21 if n_bytes >= 2**21 else mmap.PAGESIZE
    assert n_bytes == 0 or memory.ctypes.data % page == 0
    memory[:] = np.arange(n_bytes) % 251
    np.testing.assert_array_equal(memory, np.arange(n_bytes) % 251)


@pytest.mark.parametrize("shape", [(3, 5, 7), (0, 4), (1,)])
def test_arrays_have_the_shape_and_type_asked_for(shape: tuple[int, ...]) -> None:
    array = aligned_empty(shape, np.dtype(np.float16))
    assert (array.shape, array.dtype) == (shape, np.float16)
    assert array.flags.c_contiguous
    array[:] = 1.5
    assert (array == 1.5).all()
