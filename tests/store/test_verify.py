"""Verification: whatever happens to a file is found and named, and nothing else is."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tokenprobe.errors import MissingError, StoreError
from tokenprobe.store import Store
from tokenprobe.store.verify import Problem, verify

RNG = np.random.default_rng(0)
PATCH = RNG.normal(size=(40, 4, 6)).astype(np.float16)
TOKENS = {"train": {layer: {"patch": PATCH, "mean": PATCH.astype(np.float32).mean(1)} for layer in (0, 3)}}


@pytest.fixture
def store(write_store: Callable[..., Store], tmp_path: Path) -> Store:
    return write_store(tmp_path / "a.zarr", TOKENS, {"train": np.zeros(40, np.int64)}, grid=(2, 2), block_rows=8)


def files_of(store: Store) -> list[Path]:
    return sorted(file for file in store.path.rglob("c.*"))


def test_a_whole_store_has_no_problems_and_all_of_it_is_read(store: Store) -> None:
    sizes: list[int] = []
    assert verify(store.path, sizes.append) == []
    assert sorted(sizes) == sorted(file.stat().st_size for file in files_of(store))


@pytest.mark.parametrize("seed", range(50))
def test_one_flipped_bit_anywhere_is_found(store: Store, seed: int) -> None:
    rng = np.random.default_rng(seed)
    file = files_of(store)[rng.integers(len(files_of(store)))]
    data = bytearray(file.read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)
    name = str(file.relative_to(store.path))
    assert verify(store.path) == [Problem(name, "damaged: its bytes are not those that were written")]


def test_what_is_cut_missing_or_foreign_is_named(store: Store) -> None:
    folder = store.path / "train/layer_03/patch"
    (folder / "c.0.1.0.0").write_bytes((folder / "c.0.1.0.0").read_bytes()[:-1])
    (folder / "c.0.2.0.0").unlink()
    (folder / "c.0.9.0.0").write_bytes(b"")
    (store.path / "train/labels/c.0").unlink()
    full = 8 * 4 * 6 * 2
    assert verify(store.path) == [
        Problem("train/labels/c.0", "missing"),
        Problem("train/layer_03/patch/c.0.1.0.0", f"damaged: {full - 1} bytes, {full} when it was written"),
        Problem("train/layer_03/patch/c.0.2.0.0", "missing"),
        Problem("train/layer_03/patch/c.0.9.0.0", "foreign: nothing declares it"),
    ]


def test_swapped_and_renamed_files_are_named(store: Store) -> None:
    one, other = (store.path / f"train/layer_0{layer}/mean/c.0.1.0" for layer in (0, 3))
    shutil.copy(store.path / "train/layer_00/mean/c.0.0.0", one)
    other.rename(other.with_name("c.0.1.0.old"))
    assert [problem.file for problem in verify(store.path)] == [
        "train/layer_00/mean/c.0.1.0",
        "train/layer_03/mean/c.0.1.0",
        "train/layer_03/mean/c.0.1.0.old",
    ]


def test_files_that_the_journal_does_not_record_are_named(store: Store) -> None:
    journal = store.path / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    lost = [line for line in lines if '"train/layer_00/patch/c.0.4.0.0"' in line]
    journal.write_text("".join(line for line in lines if line not in lost))
    (problem,) = verify(store.path)
    assert problem == Problem("train/layer_00/patch/c.0.4.0.0", "not finished: the journal does not record it")


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no store at"):
        verify(tmp_path / "none")
    with pytest.raises(StoreError, match="is not a token store"):
        verify(tmp_path)
