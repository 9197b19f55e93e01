"""One array: rows in the type of the caller's array, at once or ahead of their use."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store import array_reader, open_store
from tokenprobe.store.array_reader import finish

from .kit import DTYPES, block_path, make_contents, write

Place = Callable[[str], Path]
PATCH = "train/layer_00/patch"


@pytest.mark.parametrize("converted_bytes", [1, 200, 2**20])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_converted_a_few_at_a_time_into_their_places(
    place: Place, monkeypatch: pytest.MonkeyPatch, dtype: str, converted_bytes: int
) -> None:
    monkeypatch.setattr(array_reader, "CONVERTED_BYTES", converted_bytes)
    contents = make_contents(dtype)
    reader = open_store(write(place("s"), contents))["train"].reader(0, view=1)
    rows = np.array([10, 3, 4, 5, 0, 3, 9])
    values = contents.returned[PATCH][1, rows]
    for wanted in ("float16", "float32", "float64"):
        out = np.empty((7, 6, 5), wanted)
        reader.read(rows, out)
        np.testing.assert_allclose(out, values.astype(wanted), rtol=2**-10, atol=2e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_started_is_whole_when_it_is_finished(place: Place, dtype: str) -> None:
    contents = make_contents(dtype)
    reader = open_store(write(place("s"), contents))["train"].reader(0, view=1)
    rows = [np.array([10, 3, 4]), np.arange(11), np.array([], int)]
    outs = [np.empty((len(some), *reader.row), contents.stored[PATCH].dtype) for some in rows]
    started = [reader.start(some, out) for some, out in zip(rows, outs, strict=True)]
    for some, out, reads in zip(rows, outs, started, strict=True):
        finish(reads)
        np.testing.assert_array_equal(out, contents.stored[PATCH][1, some])


def test_a_failure_is_raised_once_nothing_reads_any_more(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block 0 is missing; block 2 is held up on its way, and may not come into what is somebody else's by then."""
    path = write(place("s"), make_contents())
    reader = open_store(path)["train"].reader(0)
    block_path(path, PATCH, 0, 0).unlink()
    gate, preadv = threading.Event(), os.preadv

    def slow(*arguments: object) -> int:
        gate.wait(10)
        return preadv(*arguments)

    monkeypatch.setattr(os, "preadv", slow)
    out = np.zeros((11, 6, 5), np.float16)
    threading.Timer(0.1, gate.set).start()
    with pytest.raises(StoreError, match="is not there"):
        reader.read(np.arange(11), out)
    before = out.copy()
    assert before[8:].any()
    threading.Event().wait(0.05)
    np.testing.assert_array_equal(out, before)


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 0)], ids=["missing", "empty"])
def test_a_read_that_fails_leaks_no_descriptor(place: Place, damage: Callable[[Path], None]) -> None:
    path = write(place("s"), make_contents())
    split = open_store(path)["train"]
    damage(block_path(path, "train/layer_00/patch", 0, 1))
    n_open = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StoreError, match=r"ends at byte 0|is not there"):
        split.tokens(0)
    assert len(os.listdir("/proc/self/fd")) == n_open


@pytest.mark.parametrize("rows", [[0, 1, 5], [*range(11)], []])
def test_what_is_expected_is_read_as_ever(place: Place, rows: list[int]) -> None:
    contents = make_contents()
    path = write(place("s"), contents)
    reader = open_store(path)["train"].reader(0)
    block_path(path, PATCH, 0, 2).unlink()
    reader.expect(np.array(rows, int))
    out = np.empty((3, 6, 5), np.float16)
    reader.read(np.array([0, 1, 5]), out)
    np.testing.assert_array_equal(out, contents.stored[PATCH][0, [0, 1, 5]])
