"""Reading ahead: what is yielded is what was asked for, in two buffers that are used again."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store import open_store
from tokenprobe.store.ring import BufferRing, page_aligned, read_ahead

from .kit import DTYPES, block_path, make_contents, write

PIECES = [np.array([3, 10, 0]), np.arange(11), np.array([7]), np.array([], dtype=int), np.arange(8)[::-1]]
FLOAT16 = np.dtype(np.float16)
Place = Callable[[str], Path]
VALUES = np.random.default_rng(0).normal(size=(60, 4, 6)).astype(FLOAT16)


def take_values(rows: np.ndarray, out: np.ndarray) -> None:
    out[:] = VALUES[rows]


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_piece_has_its_rows_in_the_order_asked(place: Place, dtype: str) -> None:
    contents = make_contents(dtype)
    split = open_store(write(place("s"), contents))["train"]
    name = "train/layer_03/patch"
    for read, wanted in ((split.tokens, contents.returned[name][0]), (split.stored, contents.stored[name][0])):
        pieces = read_ahead(
            lambda rows, out, read=read: read(3, rows, out=out), PIECES, (6, 5), wanted.dtype, BufferRing()
        )
        for asked, piece in zip(PIECES, pieces, strict=True):
            assert piece.dtype == wanted.dtype
            np.testing.assert_allclose(piece, wanted[asked], rtol=2**-10, atol=2e-5)


def test_no_pieces_yield_nothing() -> None:
    assert list(read_ahead(take_values, [], (4, 6), FLOAT16, BufferRing())) == []


def test_two_buffers_serve_any_number_of_pieces_passes_and_types() -> None:
    asked: list[int] = []

    def allocate(n_bytes: int) -> np.ndarray:
        asked.append(n_bytes)
        return page_aligned(n_bytes)

    ring, places = BufferRing(allocate), set()
    for _ in range(3):
        for piece in read_ahead(
            take_values, [np.arange(60), np.arange(60)[::-1], np.arange(5)] * 3, (4, 6), FLOAT16, ring
        ):
            places.add(piece.__array_interface__["data"][0])
        ring.array(0, (60, 4, 3), np.dtype(np.float32))
    assert asked == [60 * 4 * 6 * 2] * 2
    assert len(places) == 2
    assert all(place % 4096 == 0 for place in places)


def test_a_buffer_grows_to_what_is_asked_and_the_old_one_goes_first() -> None:
    ring = BufferRing()
    small = ring.array(0, (3, 2), np.dtype(np.float32))
    small[:] = 1
    large = ring.array(2, (300, 200), np.dtype(np.float32))
    assert (large.shape, large.dtype) == ((300, 200), np.float32)
    assert not np.shares_memory(small, large)
    assert np.shares_memory(large, ring.array(4, (3, 2), np.dtype(np.int8)))
    assert not np.shares_memory(large, ring.array(1, (300, 200), np.dtype(np.float32)))
    assert ring.array(0, (0, 5), FLOAT16).shape == (0, 5)


def test_a_piece_stays_as_it_is_until_the_next_is_asked_for() -> None:
    """The reader waits at a gate: it can have started on the next piece only, in the other buffer."""
    begun: list[int] = []
    gates = [threading.Event() for _ in range(4)]

    def read(rows: np.ndarray, out: np.ndarray) -> None:
        begun.append(int(rows[0]))
        assert gates[rows[0] // 15].wait(10)
        take_values(rows, out)

    pieces = [np.arange(15) + start for start in (0, 15, 30, 45)]
    ahead = read_ahead(read, pieces, (4, 6), FLOAT16, BufferRing())
    gates[0].set()
    for number, piece in enumerate(ahead):
        if number < 3:
            gates[number + 1].set()  # let the next one be read to the end
        while len(begun) < min(number + 2, 4):
            threading.Event().wait(0.001)
        threading.Event().wait(0.02)
        assert begun == [0, 15, 30, 45][: number + 2]  # and none after it is begun
        np.testing.assert_array_equal(piece, VALUES[pieces[number]])


def test_a_missing_block_is_an_error_when_its_piece_comes(place: Place) -> None:
    contents = make_contents()
    path = write(place("s"), contents)
    split = open_store(path)["train"]
    lost = block_path(path, "train/layer_00/patch", 0, 2)
    lost.unlink()
    pieces = [np.arange(8), np.arange(8, 11), np.arange(4)]
    ahead = read_ahead(lambda rows, out: split.tokens(0, rows, out=out), pieces, (6, 5), FLOAT16, BufferRing())
    np.testing.assert_array_equal(next(ahead), contents.stored["train/layer_00/patch"][0, :8])
    with pytest.raises(StoreError, match=f"{lost.name}' is not there"):
        next(ahead)


def test_a_reader_that_is_given_up_leaves_no_thread() -> None:
    before = threading.active_count()
    ahead = read_ahead(take_values, [np.arange(60)] * 4, (4, 6), FLOAT16, BufferRing())
    next(ahead)
    assert threading.active_count() > before
    ahead.close()
    assert threading.active_count() == before
