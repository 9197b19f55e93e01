"""Reading ahead yields the rows asked for, in buffers that are reused."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store import open_store
from tokenprobe.store.array_reader import ArrayReader
from tokenprobe.store.memory import page_aligned
from tokenprobe.store.ring import BufferRing, read_ahead
from tokenprobe.testing.store_kit import DTYPES, block_path, make_contents, write

PIECES = [np.array([3, 10, 0]), np.arange(11), np.array([7]), np.array([], dtype=int), np.arange(8)[::-1]]
FLOAT16 = np.dtype(np.float16)
PATCH = make_contents().stored["train/layer_00/patch"][0]
Place = Callable[[str], Path]


@pytest.fixture
def reader(place: Place) -> ArrayReader:
    return open_store(write(place("s"), make_contents()))["train"].reader(0)


@pytest.mark.parametrize("n_buffers", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_piece_has_its_rows_in_the_order_asked(place: Place, dtype: str, n_buffers: int) -> None:
    contents = make_contents(dtype)
    reader = open_store(write(place("s"), contents))["train"].reader(3)
    name = "train/layer_03/patch"
    for wanted in (contents.returned[name][0], contents.stored[name][0]):
        pieces = read_ahead(reader, PIECES, wanted.dtype, BufferRing(n_buffers))
        for asked, piece in zip(PIECES, pieces, strict=True):
            assert piece.dtype == wanted.dtype
            np.testing.assert_allclose(piece, wanted[asked], rtol=2**-10, atol=2e-5)


def test_no_pieces_yield_nothing(reader: ArrayReader) -> None:
    for n_buffers in (1, 2, 3):
        assert list(read_ahead(reader, [], FLOAT16, BufferRing(n_buffers))) == []


@pytest.mark.parametrize("n_buffers", [1, 2, 3])
def test_the_buffers_serve_any_number_of_pieces_passes_and_types(reader: ArrayReader, n_buffers: int) -> None:
    asked: list[int] = []

    def allocate(n_bytes: int) -> np.ndarray:
        asked.append(n_bytes)
        return page_aligned(n_bytes)

    ring, places = BufferRing(n_buffers, allocate), set()
    for _ in range(3):
        for piece in read_ahead(reader, [np.arange(11), np.arange(11)[::-1], np.arange(11)] * 2, FLOAT16, ring):
            places.add(piece.__array_interface__["data"][0])
        ring.array(0, (11, 6, 2), np.dtype(np.float32))
    assert asked == [11 * 6 * 5 * 2] * n_buffers
    assert len(places) == n_buffers
    assert all(place % 4096 == 0 for place in places)


def test_a_buffer_grows_to_what_is_asked() -> None:
    ring = BufferRing(2)
    small = ring.array(0, (3, 2), np.dtype(np.float32))
    large = ring.array(2, (300, 200), np.dtype(np.float32))
    assert (large.shape, large.dtype) == ((300, 200), np.float32)
    assert not np.shares_memory(small, large)
    assert np.shares_memory(large, ring.array(4, (3, 2), np.dtype(np.int8)))
    assert not np.shares_memory(large, ring.array(1, (300, 200), np.dtype(np.float32)))
    assert ring.array(0, (0, 5), FLOAT16).shape == (0, 5)


@pytest.mark.parametrize("n_buffers", [1, 2, 3])
def test_a_piece_stays_as_it_is_and_no_more_is_read_than_there_are_buffers_for(
    place: Place, monkeypatch: pytest.MonkeyPatch, n_buffers: int
) -> None:
    """Each piece is one block, so the last file read shows how far the reading has come."""
    path = write(place("s"), make_contents(counts={"train": 24, "test": 1}))
    patch = make_contents(counts={"train": 24, "test": 1}).stored["train/layer_00/patch"][0]
    files, preadv = [str(block_path(path, "train/layer_00/patch", 0, block)) for block in range(6)], os.preadv
    furthest: list[int] = []

    def watched(fd: int, *arguments: Any) -> int:
        furthest.append(files.index(os.readlink(f"/proc/self/fd/{fd}")))
        return preadv(fd, *arguments)

    monkeypatch.setattr(os, "preadv", watched)
    pieces = [np.arange(4) + start for start in range(0, 24, 4)]
    ahead = read_ahead(open_store(path)["train"].reader(0), pieces, FLOAT16, BufferRing(n_buffers))
    for number, piece in enumerate(ahead):
        time.sleep(0.02)  # the next pieces are read meanwhile
        assert max(furthest) == min(number + n_buffers - 1, 5)
        np.testing.assert_array_equal(piece, patch[pieces[number]])


@pytest.mark.parametrize("n_buffers", [1, 2, 3])
def test_a_missing_block_is_an_error_when_its_piece_comes(place: Place, n_buffers: int) -> None:
    path = write(place("s"), make_contents())
    reader = open_store(path)["train"].reader(0)
    lost = block_path(path, "train/layer_00/patch", 0, 2)
    lost.unlink()
    ahead = read_ahead(reader, [np.arange(8), np.arange(8, 11), np.arange(4)], FLOAT16, BufferRing(n_buffers))
    np.testing.assert_array_equal(next(ahead), PATCH[:8])
    with pytest.raises(StoreError, match=f"{lost.name}' is missing"):
        next(ahead)


def test_nothing_is_read_into_the_buffers_of_a_reader_that_was_given_up(
    reader: ArrayReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, preadv, slow = BufferRing(3), os.preadv, threading.Event()

    def watched(*arguments: Any) -> int:
        if slow.is_set():
            time.sleep(0.05)
        return preadv(*arguments)

    monkeypatch.setattr(os, "preadv", watched)
    ahead = read_ahead(reader, [np.arange(4), np.arange(4, 8), np.arange(4), np.arange(8)], FLOAT16, ring)
    next(ahead)
    slow.set()
    next(ahead)
    ahead.close()
    buffers = [ring.array(turn, (4, 6, 5), FLOAT16) for turn in range(3)]
    for buffer in buffers:
        buffer[:] = 7
    time.sleep(0.1)
    assert all((buffer == 7).all() for buffer in buffers)
