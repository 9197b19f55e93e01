"""The reader of one array: everything but the values it reads, which are tested for each format."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store import open_store
from tokenprobe.store.array_spec import array_spec
from tokenprobe.store.extents import threads
from tokenprobe.store.formats import store_files
from tokenprobe.testing.store_kit import block_path, make_contents, write

Place = Callable[[str], Path]
NAME = "train/layer_03/patch"


def test_reading_may_be_started_and_awaited(place: Place) -> None:
    contents = make_contents(counts={"train": 100, "test": 3}, block_rows=16)
    reader = open_store(write(place("s"), contents))["train"].reader(3, view=1)
    rows = np.random.default_rng(0).permutation(100)
    out = np.empty((100, *reader.row), np.float32)
    done, under_way = wait(reader.start(rows, out), timeout=10)
    assert len(done) > 1 and not under_way
    np.testing.assert_array_equal(out, contents.stored[NAME][1, rows])


def test_a_failure_is_raised_once_nothing_reads_any_more(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block 0 is missing and block 2 is slow: it must not write to the caller's array after the error."""
    path = write(place("s"), make_contents())
    reader = open_store(path)["train"].reader(3)
    block_path(path, NAME, 0, 0).unlink()
    gate, preadv = threading.Event(), os.preadv

    def slow(*arguments: Any) -> int:
        gate.wait(10)
        return preadv(*arguments)

    monkeypatch.setattr(os, "preadv", slow)
    out = np.zeros((11, 6, 5), np.float16)
    threading.Timer(0.1, gate.set).start()
    with pytest.raises(StoreError, match="is missing"):
        reader.read(np.arange(11), out)
    before = out.copy()
    assert before[8:].any()
    threading.Event().wait(0.05)
    np.testing.assert_array_equal(out, before)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no advice on files")
def test_the_kernel_is_told_of_blocks_that_will_be_read_for_the_most_part(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(place("s"), make_contents(counts={"train": 40, "test": 3}, block_rows=10))
    reader = open_store(path)["train"].reader(3)
    advised: list[tuple[str, int, int, int]] = []

    def advise(fd: int, offset: int, size: int, advice: int) -> None:
        advised.append((os.readlink(f"/proc/self/fd/{fd}"), offset, size, advice))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    reader.expect(np.r_[0:10, 10:14, 25:30, 39])
    threads(os.getpid(), open_store(path).arrays.n_threads).shutdown()  # all advice to the kernel is given
    threads.cache_clear()
    store = open_store(path)
    spec = array_spec(store.manifest, "train", "layer_03", "patch")
    wanted = [store_files(path).extent(spec, 0, block) for block in (0, 2)]
    assert sorted(advised) == sorted((str(path), *rest, os.POSIX_FADV_WILLNEED) for path, *rest in wanted)


def test_a_block_that_is_not_there_is_no_reason_to_fail_before_it_is_read(place: Place) -> None:
    path = write(place("s"), make_contents())
    block_path(path, NAME, 0, 0).unlink()
    reader = open_store(path)["train"].reader(3)
    reader.expect(np.arange(11))
    out = np.empty((1, *reader.row), np.float16)
    with pytest.raises(StoreError, match="is missing"):
        reader.read(np.array([0]), out)


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 0)], ids=["missing", "empty"])
def test_a_read_that_fails_leaks_no_descriptor(place: Place, damage: Callable[[Path], None]) -> None:
    path = write(place("s"), make_contents())
    split = open_store(path)["train"]
    damage(block_path(path, NAME, 0, 1))
    n_open = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StoreError, match=r"ends at byte 0|is missing"):
        split.tokens(3)
    assert len(os.listdir("/proc/self/fd")) == n_open
