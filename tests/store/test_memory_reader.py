"""Rows in memory, copied on threads: the rows asked for, in their order, at any size."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tokenprobe.store.array_reader import finish
from tokenprobe.store.memory_reader import MemoryReader
from tokenprobe.store.ring import BufferRing, read_ahead

INDICES = [[], [3], [4, 4, 0], [*range(5)], [4, 2, 0, 1]]


@pytest.mark.parametrize("index", INDICES, ids=str)
@pytest.mark.parametrize("row", [(), (7,), (3, 5), (300, 1000)], ids=str)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint16, np.int8])
def test_rows_are_those_asked_for(dtype: type[np.generic], row: tuple[int, ...], index: list[int]) -> None:
    """The largest rows are more bytes than one thread copies at a time."""
    values = np.random.default_rng(0).integers(0, 100, (5, *row)).astype(dtype)
    reader, out = MemoryReader(values), np.full((len(index), *row), 111, dtype)
    finish(reader.start(np.array(index, dtype=np.int64), out))
    assert reader.row == row
    np.testing.assert_array_equal(out, np.array([values[i] for i in index], dtype).reshape(out.shape))


def test_an_array_that_is_not_in_order_is_put_in_order_once() -> None:
    values = np.arange(24.0).reshape(4, 6).T
    reader, out = MemoryReader(values), np.empty((2, 4))
    finish(reader.start(np.array([5, 1]), out))
    np.testing.assert_array_equal(out, values[[5, 1]])


def test_large_pieces_are_copied_on_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each copy waits until another begins: a single thread would not get past the first."""
    both, take = threading.Barrier(2, timeout=20), np.take

    def watched(*arguments: Any, **options: Any) -> Any:
        both.wait()
        return take(*arguments, **options)

    monkeypatch.setattr(np, "take", watched)
    values, out = np.arange(64 * 2**17, dtype=np.float32).reshape(64, -1), np.empty((8, 2**17), np.float32)
    started = MemoryReader(values).start(np.arange(8) * 7, out)
    assert len(started) % 2 == 0
    finish(started)
    np.testing.assert_array_equal(out, values[np.arange(8) * 7])


def test_the_array_itself_is_neither_copied_nor_changed() -> None:
    values = np.arange(10).reshape(5, 2)
    reader, out = MemoryReader(values), np.empty((1, 2), values.dtype)
    values[3] = 77
    finish(reader.start(np.array([3]), out))
    assert out.tolist() == [[77, 77]]
    out[:] = 0
    assert values[3].tolist() == [77, 77]


@pytest.mark.parametrize("n_buffers", [1, 2, 3])
@pytest.mark.parametrize("stop", [1, 3])
def test_nothing_is_copied_into_the_buffers_of_a_reader_that_was_given_up(
    slow_take: Callable[[float], None], n_buffers: int, stop: int
) -> None:
    values, ring = np.arange(60.0).reshape(30, 2), BufferRing(n_buffers)
    ahead = read_ahead(MemoryReader(values), [np.arange(5) + 5 * i for i in range(6)], values.dtype, ring)
    slow_take(0.05)
    for number in range(stop):
        np.testing.assert_array_equal(next(ahead), values[5 * number : 5 * number + 5])
    ahead.close()
    buffers = [ring.array(turn, (5, 2), values.dtype) for turn in range(n_buffers)]
    for buffer in buffers:
        buffer[:] = 7
    threading.Event().wait(0.15)
    assert all((buffer == 7).all() for buffer in buffers)


def test_a_reader_waits_for_what_an_older_one_left_in_its_buffers(slow_take: Callable[[float], None]) -> None:
    """The older one is neither closed nor forgotten, as when a traceback holds it."""
    values, ring = np.arange(60.0).reshape(30, 2), BufferRing(2)
    pieces = [np.arange(5) + 5 * i for i in range(6)]
    older = read_ahead(MemoryReader(values), pieces, values.dtype, ring)
    slow_take(0.1)
    next(older)
    slow_take(0)
    for number, piece in enumerate(read_ahead(MemoryReader(values + 100), pieces, values.dtype, ring)):
        threading.Event().wait(0.05)
        np.testing.assert_array_equal(piece, values[pieces[number]] + 100)


@pytest.fixture
def slow_take(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Give a function that slows later copies by a given number of seconds."""
    take, seconds = np.take, [0.0]

    def watched(*arguments: Any, **options: Any) -> Any:
        threading.Event().wait(seconds[0])
        return take(*arguments, **options)

    monkeypatch.setattr(np, "take", watched)
    return lambda longer: seconds.__setitem__(0, longer)
