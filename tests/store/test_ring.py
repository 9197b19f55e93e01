"""Reading ahead: what is yielded is what was asked for, in two buffers that are used again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store import Split, Store
from tokenprobe.store.ring import BufferRing, read_ahead

PATCH = np.random.default_rng(0).normal(size=(60, 4, 6)).astype(np.float16)
ARRAYS = {"patch": PATCH, "mean": PATCH.astype(np.float32).mean(1)}
WINDOWS = [np.array([3, 59, 0]), np.arange(60), np.array([7]), np.array([], dtype=int), np.arange(30)[::-1]]


@pytest.fixture
def split(write_store: Callable[..., Store], tmp_path: Path) -> Split:
    labels = np.zeros(60, dtype=np.int64)
    return write_store(tmp_path / "a.zarr", {"train": {0: ARRAYS}}, {"train": labels}, grid=(2, 2), block_rows=8)[
        "train"
    ]


@pytest.mark.parametrize("kind", ["patch", "mean"])
def test_each_window_has_its_rows_in_the_order_asked(split: Split, kind: str) -> None:
    windows = read_ahead(split, 0, WINDOWS, BufferRing(), kind=kind)
    for asked, window in zip(WINDOWS, windows, strict=True):
        np.testing.assert_array_equal(window, ARRAYS[kind][asked])


def test_no_windows_yield_nothing(split: Split) -> None:
    assert list(read_ahead(split, 0, [], BufferRing())) == []


def test_two_buffers_serve_any_number_of_windows_and_passes(split: Split) -> None:
    ring = BufferRing()
    places = set()
    for _ in range(3):
        for window in read_ahead(split, 0, [np.arange(60), np.arange(60)] * 3, ring):
            places.add(window.__array_interface__["data"][0])
    assert len(places) == 2
    assert all(place % 4096 == 0 for place in places)


def test_a_window_is_whole_while_the_next_is_read(split: Split) -> None:
    windows = read_ahead(split, 0, [np.arange(30), np.arange(30, 60)], BufferRing())
    first = next(windows)
    second = next(windows)
    np.testing.assert_array_equal(first, PATCH[:30])
    np.testing.assert_array_equal(second, PATCH[30:])


def test_a_damaged_block_is_an_error_when_its_window_comes(split: Split) -> None:
    split.extent(0, "patch", 0, 5).path.unlink()  # rows 40 to 47
    windows = read_ahead(split, 0, [np.arange(8), np.arange(40, 48)], BufferRing())
    np.testing.assert_array_equal(next(windows), PATCH[:8])
    with pytest.raises(StoreError, match=r"c\.0\.5\.0\.0' is not there"):
        next(windows)


def test_a_reader_that_is_given_up_leaves_no_thread(split: Split) -> None:
    import threading

    before = threading.active_count()
    windows = read_ahead(split, 0, WINDOWS, BufferRing())
    next(windows)
    windows.close()
    assert threading.active_count() == before
