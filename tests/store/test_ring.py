"""Reading ahead: what is yielded is what was asked for, in buffers that are used again."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store import open_store
from tokenprobe.store.memory import page_aligned
from tokenprobe.store.ring import BufferRing, read_ahead

from .kit import DTYPES, block_path, make_contents, write

PIECES = [np.array([3, 10, 0]), np.arange(11), np.array([7]), np.array([], dtype=int), np.arange(8)[::-1]]
FLOAT16 = np.dtype(np.float16)
Place = Callable[[str], Path]
VALUES = np.random.default_rng(0).normal(size=(60, 4, 6)).astype(FLOAT16)


class GatedReader:
    """Reads from an array, a row's piece only once its gate is open."""

    row = (4, 6)

    def __init__(self, n_pieces: int) -> None:
        self.begun: list[int] = []
        self.expected: list[int] = []
        self.gates = [Event() for _ in range(n_pieces)]
        self._pool = ThreadPoolExecutor(n_pieces)

    def start(self, index: np.ndarray, out: np.ndarray) -> list[Future[None]]:
        self.begun.append(int(index[0]) // 15)
        return [self._pool.submit(self._read, index, out)]

    def expect(self, index: np.ndarray) -> None:
        self.expected.append(int(index[0]) // 15)

    def _read(self, index: np.ndarray, out: np.ndarray) -> None:
        assert self.gates[index[0] // 15].wait(10)
        out[:] = VALUES[index]


@pytest.mark.parametrize("n_buffers", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_piece_has_its_rows_in_the_order_asked(place: Place, dtype: str, n_buffers: int) -> None:
    contents = make_contents(dtype)
    split = open_store(write(place("s"), contents))["train"]
    name = "train/layer_03/patch"
    for wanted in (contents.returned[name][0], contents.stored[name][0]):
        pieces = read_ahead(split.reader(3), PIECES, wanted.dtype, BufferRing(n_buffers))
        for asked, piece in zip(PIECES, pieces, strict=True):
            assert piece.dtype == wanted.dtype
            np.testing.assert_allclose(piece, wanted[asked], rtol=2**-10, atol=2e-5)


def test_no_pieces_yield_nothing() -> None:
    assert list(read_ahead(GatedReader(1), [], FLOAT16, BufferRing(2))) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("n_buffers", [1, 2])
def test_the_buffers_serve_any_number_of_pieces_passes_and_types(place: Place, n_buffers: int) -> None:
    split = open_store(write(place("s"), make_contents()))["train"]
    asked: list[int] = []

    def allocate(n_bytes: int) -> np.ndarray:
        asked.append(n_bytes)
        return page_aligned(n_bytes)

    ring, places = BufferRing(n_buffers, allocate), set()
    for _ in range(3):
        for piece in read_ahead(split.reader(3), [np.arange(11), np.arange(11)[::-1]] * 3, FLOAT16, ring):
            places.add(piece.__array_interface__["data"][0])
        ring.array(0, (11, 6, 2), np.dtype(np.float32))
    assert asked == [11 * 6 * 5 * 2] * n_buffers
    assert len(places) == n_buffers
    assert all(place % 4096 == 0 for place in places)


def test_a_buffer_grows_to_what_is_asked_and_the_old_one_goes_first() -> None:
    ring = BufferRing(2)
    small = ring.array(0, (3, 2), np.dtype(np.float32))
    small[:] = 1
    large = ring.array(2, (300, 200), np.dtype(np.float32))
    assert (large.shape, large.dtype) == ((300, 200), np.float32)
    assert not np.shares_memory(small, large)
    assert np.shares_memory(large, ring.array(4, (3, 2), np.dtype(np.int8)))
    assert not np.shares_memory(large, ring.array(1, (300, 200), np.dtype(np.float32)))
    assert ring.array(0, (0, 5), FLOAT16).shape == (0, 5)


@pytest.mark.parametrize("n_buffers", [1, 2, 3])
def test_a_piece_stays_as_it_is_until_the_next_is_asked_for(n_buffers: int) -> None:
    """Only as many pieces are begun as there are other buffers, and the kernel hears of the one after those."""
    pieces = [np.arange(15) + start for start in (0, 15, 30, 45)]
    reader = GatedReader(len(pieces))
    for gate in reader.gates:
        gate.set()
    ahead = read_ahead(reader, pieces, FLOAT16, BufferRing(n_buffers))  # type: ignore[arg-type]
    for number, piece in enumerate(ahead):
        assert reader.begun == list(range(min(number + n_buffers, 4)))
        Event().wait(0.02)  # those are read meanwhile
        np.testing.assert_array_equal(piece, VALUES[pieces[number]])
        assert reader.expected == list(range(n_buffers, min(number + n_buffers + 1, 4)))


def test_a_missing_block_is_an_error_when_its_piece_comes(place: Place) -> None:
    contents = make_contents()
    path = write(place("s"), contents)
    split = open_store(path)["train"]
    lost = block_path(path, "train/layer_00/patch", 0, 2)
    lost.unlink()
    pieces = [np.arange(8), np.arange(8, 11), np.arange(4)]
    ahead = read_ahead(split.reader(0), pieces, FLOAT16, BufferRing(2))
    np.testing.assert_array_equal(next(ahead), contents.stored["train/layer_00/patch"][0, :8])
    with pytest.raises(StoreError, match=f"{lost.name}' is not there"):
        next(ahead)


def test_a_reader_that_is_given_up_has_ended_all_reads() -> None:
    reader = GatedReader(4)
    ring = BufferRing(3)
    ahead = read_ahead(reader, [np.arange(15) + start for start in (0, 15, 30, 45)], FLOAT16, ring)  # type: ignore[arg-type]
    reader.gates[0].set()
    next(ahead)
    closed = ThreadPoolExecutor(1).submit(ahead.close)
    Event().wait(0.02)
    assert not closed.done(), "two reads are still under way"
    reader.gates[1].set()
    reader.gates[2].set()
    closed.result(10)
    np.testing.assert_array_equal(ring.array(2, (15, 4, 6), FLOAT16), VALUES[30:45])
