"""Rows of block files: every byte in its place, no byte read twice, and no other byte read."""

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store import extents, open_store
from tokenprobe.store.extents import JOB_BYTES, MAX_VECTORS, Extent, as_bytes, parts_of, read_part, threads
from tokenprobe.testing.store_kit import block_path, folder_of, make_contents, write

RNG = np.random.default_rng(0)
Reads = list[tuple[str, int, int]]
Place = Callable[[str], Path]


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of threads on a small machine, because the number of reads depends on it."""
    monkeypatch.setattr(extents, "N_THREADS", 2)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Record the (file, offset, bytes) of every `preadv`, which really runs."""
    seen: Reads = []
    preadv = os.preadv

    def recording(fd: int, vectors: list[memoryview], offset: int) -> int:
        n_read = preadv(fd, vectors, offset)
        seen.append((os.readlink(f"/proc/self/fd/{fd}"), offset, n_read))
        return n_read

    monkeypatch.setattr(os, "preadv", recording)
    return seen


def row_sets(n: int, n_sets: int) -> list[np.ndarray]:
    """Draw row numbers in runs, reversed, repeated and scattered, in any order."""
    sets = []
    for _ in range(n_sets):
        pieces = []
        for _ in range(RNG.integers(1, 6)):
            start, size = int(RNG.integers(0, n)), int(RNG.integers(1, 20))
            piece = np.arange(start, min(n, start + size))
            pieces.append(piece[:: RNG.choice([1, 1, -1, 2])])
        pieces.append(RNG.integers(0, n, RNG.integers(0, 10)))
        rows = np.concatenate(pieces)
        sets.append(RNG.permutation(rows) if RNG.random() < 0.3 else rows)
    return sets


@pytest.mark.parametrize("row_bytes", [1, 7, 4096])
def test_any_rows_of_any_blocks_land_in_their_places(tmp_path: Path, row_bytes: int) -> None:
    n, block_rows, header = 100, 16, 33
    data = RNG.integers(0, 256, (n, row_bytes), dtype=np.uint8)
    for block in range(7):
        content = data[block * block_rows : (block + 1) * block_rows].tobytes()
        (tmp_path / str(block)).write_bytes(b"h" * header + content)
    for rows in row_sets(n, 150):
        out = np.full((len(rows), row_bytes), 99, np.uint8)
        for part in parts_of(rows, block_rows, row_bytes):
            extent = Extent(tmp_path / str(part.block), header, block_rows * row_bytes)
            read_part(extent, part, row_bytes, as_bytes(out))
        np.testing.assert_array_equal(out, data[rows])


def test_parts_hold_every_row_once_in_order_within_a_block_and_a_job() -> None:
    for rows in row_sets(1000, 100):
        block_rows, row_bytes = int(RNG.integers(1, 300)), int(RNG.choice([1, JOB_BYTES // 10, 2 * JOB_BYTES]))
        parts = list(parts_of(rows, block_rows, row_bytes))
        places = np.concatenate([part.places for part in parts])
        assert sorted(places) == list(range(len(rows)))
        for part in parts:
            np.testing.assert_array_equal(part.block * block_rows + part.rows, rows[part.places])
            assert (np.diff(part.rows) >= 0).all() and part.rows.max() < block_rows
            assert len(part.rows) * row_bytes <= JOB_BYTES + row_bytes
    assert list(parts_of(np.array([], int), 4, 1)) == []


def test_one_percent_of_the_rows_costs_exactly_their_bytes(place: Place, reads: Reads) -> None:
    contents = make_contents(counts={"train": 3000, "test": 3}, block_rows=256)
    split = open_store(write(place("s"), contents))["train"]
    for kind, row_bytes in (("patch", 6 * 5 * 2), ("mean", 5 * 4)):
        reads.clear()
        rows = RNG.choice(3000, 30, replace=False)
        values = split.tokens(3, rows, kind=kind, view=1)
        np.testing.assert_array_equal(values, contents.stored[f"train/layer_03/{kind}"][1, rows])
        assert sum(n_bytes for _, _, n_bytes in reads) == 30 * row_bytes
        assert len(reads) == 1 + np.count_nonzero((np.diff(np.sort(rows)) != 1) | (np.diff(np.sort(rows) // 256) != 0))


def test_int8_rows_cost_their_bytes_and_their_scales(place: Place, reads: Reads) -> None:
    split = open_store(write(place("s"), make_contents("int8")))["train"]
    split.tokens(3, [0])  # reads the channels too
    reads.clear()
    split.tokens(3, [1, 5, 10])
    assert sum(n_bytes for _, _, n_bytes in reads) == 3 * (6 * 5 + 6 * 2)


def test_neighbours_are_one_read_and_a_block_is_one_however_shuffled(place: Place, reads: Reads) -> None:
    path = write(place("s"), make_contents(counts={"train": 45, "test": 3}, block_rows=8))
    split, row_bytes = open_store(path)["train"], 6 * 5 * 2
    offset = 2048 if path.suffix == ".h5" else 0
    split.tokens(0, [13, 40, 41, 3])
    files = [str(block_path(path, "train/layer_00/patch", 0, block)) for block in range(6)]
    assert sorted(reads) == [
        (files[0], offset + 3 * row_bytes, row_bytes),
        (files[1], offset + 5 * row_bytes, row_bytes),
        (files[5], offset, 2 * row_bytes),
    ]
    reads.clear()
    split.tokens(0, RNG.permutation(45))
    whole = [(file, offset, 8 * row_bytes) for file in files[:5]]
    assert sorted(reads) == [*whole, (files[5], offset, 5 * row_bytes)]


@pytest.mark.parametrize("shuffled", [False, True])
def test_more_rows_of_a_block_than_one_system_call_takes(place: Place, shuffled: bool) -> None:
    n = 2500
    assert n > 2 * MAX_VECTORS and os.sysconf("SC_IOV_MAX") == MAX_VECTORS
    contents = make_contents(counts={"train": n, "test": 1}, block_rows=n)
    rows = RNG.permutation(n) if shuffled else np.arange(n)
    mean = open_store(write(place("s"), contents))["train"].tokens(0, rows, kind="mean")
    np.testing.assert_array_equal(mean, contents.stored["train/layer_00/mean"][0, rows])


@pytest.mark.parametrize("most", [1, 7, 61, 200])
def test_reads_that_the_kernel_cuts_short_are_taken_up_again(
    place: Place, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    preadv = os.preadv

    def short(fd: int, vectors: list[memoryview], offset: int) -> int:
        allowed, room = [], most
        for vector in vectors:
            allowed.append(vector[:room])
            room -= len(allowed[-1])
        return preadv(fd, [vector for vector in allowed if len(vector)], offset)

    contents = make_contents()
    split = open_store(write(place("s"), contents))["train"]
    monkeypatch.setattr(os, "preadv", short)
    rows = RNG.permutation(11)
    np.testing.assert_array_equal(split.tokens(0, rows), contents.stored["train/layer_00/patch"][0, rows])


def test_a_truncated_block_file_is_named(place: Place) -> None:
    contents = make_contents()
    path = write(place("s"), contents)
    split, row_bytes = open_store(path)["train"], 6 * 5 * 2
    offset = 2048 if path.suffix == ".h5" else 0
    file = block_path(path, "train/layer_00/patch", 0, 1)
    os.truncate(file, offset + row_bytes + 10)
    message = (
        f"{str(file)!r} ends at byte {offset + row_bytes + 10}, short of {offset + 4 * row_bytes}: it is damaged; probe"
    )
    with pytest.raises(StoreError, match=re.escape(message)):
        split.tokens(0, [4, 5, 6])
    np.testing.assert_array_equal(split.tokens(0, [3, 4, 8]), contents.stored["train/layer_00/patch"][0, [3, 4, 8]])


def test_many_threads_may_read_at_once(place: Place) -> None:
    contents = make_contents()
    split = open_store(write(place("s"), contents))["train"]
    wanted = contents.stored["train/layer_00/patch"][0]
    rows = [RNG.permutation(11) for _ in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for asked, read in zip(rows, pool.map(lambda some: split.tokens(0, some), rows), strict=True):
            np.testing.assert_array_equal(read, wanted[asked])


def test_a_fork_has_reading_threads_of_its_own() -> None:
    assert threads(os.getpid()) is threads(os.getpid())
    assert threads(os.getpid()) is not threads(-1)
    threads(-1).shutdown()


def test_only_rows_are_read_ahead_of_sparse_ones(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """For rows far apart, the kernel's readahead would read the bytes between them."""
    advised: list[Any] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: advised.append(arguments[-1]))
    path = write(place("s"), make_contents(counts={"train": 400, "test": 1}, block_rows=400))
    split = open_store(path)["train"]
    split.tokens(0, range(400))
    split.tokens(0, [5, 6, 7, 8])
    assert advised == []
    split.tokens(0, [5, 105, 300])
    assert advised == [os.POSIX_FADV_RANDOM]
    assert folder_of(path).exists()
