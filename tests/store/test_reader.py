"""Any rows, in any order, exactly, and no byte more than asked."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenprobe.errors import InputError, MissingError, StoreError
from tokenprobe.store import BlockKey, Store, open_store, open_writer

N, BLOCK = 45, 8
ROWS = {
    "all": None,
    "one": [44],
    "sorted": [0, 1, 2, 7, 8, 9, 40],
    "reversed": list(range(N))[::-1],
    "duplicates": [3, 3, 44, 0, 3, 44],
    "shuffled": np.random.default_rng(1).permutation(N),
    "small type": np.array([9, 2, 30], dtype=np.uint8),
}


@pytest.fixture(scope="module")
def tokens() -> dict[str, np.ndarray]:
    """(N, …) float64 by kind."""
    rng = np.random.default_rng(0)
    return {
        "patch": rng.standard_normal((N, 6, 5)),
        "prefix": rng.standard_normal((N, 2, 5)),
        "mean": rng.standard_normal((N, 5)),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For stores that are written once: every test reads them, none touches them."""
    return tmp_path_factory.mktemp("stores")


@pytest.fixture
def make(folder: Path, tokens: dict[str, np.ndarray], write_store: Callable[..., Store]) -> Callable[..., Store]:
    """Give a store with layers 2 and 10 of `train`, and layer 2 of `test` without prefix tokens."""

    def make_store(dtype: str = "float16") -> Store:
        if (folder / dtype).exists():
            return open_store(folder / dtype)
        kinds = typed(tokens, dtype)
        other = {kind: values[::-1] for kind, values in kinds.items()}
        of_test = {kind: kinds[kind][:5] for kind in ("patch", "mean")}
        labels = {"train": np.arange(N) % 4, "test": np.arange(5)}
        splits = {"train": {2: kinds, 10: other}, "test": {2: of_test}}
        return write_store(folder / dtype, splits, labels, grid=(2, 3), block_rows=BLOCK, dtype=dtype)

    return make_store


@pytest.fixture
def copy(make: Callable[..., Store], tmp_path: Path) -> Store:
    """A store to damage."""
    return open_store(shutil.copytree(make().path, tmp_path / "copy"))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("kind", ["patch", "prefix", "mean"])
def test_rows_equal_numpy_indexing(
    make: Callable[..., Store], tokens: dict[str, np.ndarray], kind: str, dtype: str
) -> None:
    split = make(dtype)["train"]
    expected = typed(tokens, dtype)[kind]
    for name, rows in ROWS.items():
        index = np.arange(N) if rows is None else np.asarray(rows, dtype=int)
        for layer, values in ((2, expected), (10, expected[::-1])):
            read = split.tokens(layer, rows, kind=kind)
            np.testing.assert_array_equal(read, values[index], strict=True, err_msg=name)
    assert split.dtype(kind) == expected.dtype


@pytest.mark.parametrize("kind", ["patch", "mean"])
def test_no_rows_give_an_empty_array(make: Callable[..., Store], tokens: dict[str, np.ndarray], kind: str) -> None:
    expected = typed(tokens, "float16")[kind][:0]
    np.testing.assert_array_equal(make()["train"].tokens(2, [], kind=kind), expected, strict=True)


def test_out_is_filled_in_place_and_returned(make: Callable[..., Store], tokens: dict[str, np.ndarray]) -> None:
    out = np.full((3, 6, 5), np.nan, np.float16)
    assert make()["train"].tokens(2, [30, 1, 2], out=out) is out
    np.testing.assert_array_equal(out, tokens["patch"][[30, 1, 2]].astype(np.float16))


@pytest.mark.parametrize(
    "out", [np.empty((2, 6, 5), np.float16), np.empty((3, 6, 5), np.float32), np.empty((3, 5, 6), np.float16).mT]
)
def test_an_out_of_another_shape_type_or_stride_is_not_filled(make: Callable[..., Store], out: np.ndarray) -> None:
    with pytest.raises(AssertionError):
        make()["train"].tokens(2, [30, 1, 2], out=out)


@pytest.mark.parametrize("shuffled", [False, True])
def test_more_rows_of_a_block_than_one_system_call_takes(
    tmp_path: Path, write_store: Callable[..., Store], shuffled: bool
) -> None:
    n = 2500
    assert n > 2 * os.sysconf("SC_IOV_MAX")
    mean = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    store = write_store(
        tmp_path / "s", {"train": {0: {"mean": mean}}}, {"train": np.zeros(n, int)}, grid=(1, 1), block_rows=n
    )
    rows = np.random.default_rng(0).permutation(n) if shuffled else np.arange(n)
    np.testing.assert_array_equal(store["train"].tokens(0, rows, kind="mean"), mean[rows])


def test_a_few_rows_cost_exactly_their_bytes(make: Callable[..., Store], monkeypatch: pytest.MonkeyPatch) -> None:
    split, n_read = make()["train"], []
    preadv = os.preadv

    def counting(*arguments: Any) -> int:
        n_read.append(preadv(*arguments))
        return n_read[-1]

    monkeypatch.setattr(os, "preadv", counting)
    row_bytes = 6 * 5 * 2
    split.tokens(2, [13, 40, 41, 3])
    assert (sum(n_read), len(n_read)) == (4 * row_bytes, 3)  # 40 and 41 follow one another
    n_read.clear()
    split.tokens(2, np.random.default_rng(0).permutation(N))
    assert (sum(n_read), len(n_read)) == (N * row_bytes, 6)  # one call a block, however shuffled


@pytest.mark.parametrize("most", [1, 7, 61, 200])
def test_reads_that_the_kernel_cuts_short_are_taken_up_again(
    make: Callable[..., Store], tokens: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    preadv = os.preadv

    def short(fd: int, vectors: list[memoryview], offset: int) -> int:
        allowed, room = [], most
        for vector in vectors:
            allowed.append(vector[:room])
            room -= len(allowed[-1])
        return preadv(fd, [vector for vector in allowed if len(vector)], offset)

    split = make()["train"]
    monkeypatch.setattr(os, "preadv", short)
    rows = np.random.default_rng(2).permutation(N)
    np.testing.assert_array_equal(split.tokens(2, rows), tokens["patch"][rows].astype(np.float16))


def test_labels_ids_classes_and_names(make: Callable[..., Store]) -> None:
    store = make()
    assert (store.splits, store.layers) == (["test", "train"], [2, 10])
    train = store["train"]
    assert (len(train), train.layers, store["test"].layers) == (N, [2, 10], [2])
    np.testing.assert_array_equal(train.labels, np.arange(N, dtype=np.int64) % 4, strict=True)
    assert train.ids == [f"train/{i}" for i in range(N)]
    assert {type(key) for key in train.ids} == {str}
    assert train.classes[3] == "class 3"
    assert (train.shape(10).grid, train.shape(10).dim) == ((2, 3), 5)
    assert [split.has(2, "prefix") for split in (train, store["test"])] == [True, False]


def test_extents_are_the_bytes_of_the_rows_without_the_padding(
    make: Callable[..., Store], tokens: dict[str, np.ndarray]
) -> None:
    split = make()["train"]
    data = b""
    for block in range(6):
        path, offset, size = split.extent(2, "patch", 0, block)
        data += path.read_bytes()[offset : offset + size]
    assert data == tokens["patch"].astype(np.float16).tobytes()


@pytest.mark.parametrize("rows", [[-1], [0, N], [3, -1, 2]])
def test_rows_that_are_not_there_are_refused(make: Callable[..., Store], rows: list[int]) -> None:
    message = f"^rows {min(rows)} to {max(rows)} asked of split 'train', which has rows 0 to {N - 1}$"
    with pytest.raises(InputError, match=message):
        make()["train"].tokens(2, rows)


@pytest.mark.parametrize("rows", [np.arange(N) % 2 == 0, [0.5, 1.9]], ids=["mask", "fractions"])
def test_what_is_no_row_number_is_not_taken_for_one(make: Callable[..., Store], rows: Any) -> None:
    with pytest.raises((InputError, TypeError, IndexError)):
        make()["train"].tokens(2, rows)


def test_unknown_names_list_what_there_is(make: Callable[..., Store]) -> None:
    store = make()
    with pytest.raises(InputError, match=r"^unknown split 'validation'; known: .*train"):
        store["validation"]
    for ask in (store["train"].tokens, store["train"].shape, lambda layer: store["train"].has(layer, "patch")):
        with pytest.raises(InputError, match=r"^unknown layer in split 'train' '1'; known: 10, 2$"):
            ask(1)
    with pytest.raises(InputError, match=r"^unknown layer in split 'test' '10'; known: 2$"):
        store["test"].tokens(10)
    with pytest.raises(InputError, match=r"^unknown array in test/layer_02 'prefix'; known: mean, patch$"):
        store["test"].tokens(2, kind="prefix")


@pytest.mark.parametrize("view", [-1, 1])
def test_a_view_that_is_not_there_is_refused(make: Callable[..., Store], view: int) -> None:
    with pytest.raises(InputError, match=rf"^view {view} asked of a store with 1 view\(s\)$"):
        make()["train"].tokens(2, view=view)


def test_nothing_and_something_else_are_told_apart_from_a_store(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=f"^no store at '{tmp_path / 'absent'}'; make one with probe extract$"):
        open_store(tmp_path / "absent")
    (tmp_path / "file.txt").write_text("text")
    for path in (tmp_path, tmp_path / "file.txt"):
        with pytest.raises(StoreError, match=f"^'{path}' is not a token store: it has no manifest; make one with"):
            open_store(str(path))


def test_a_truncated_block_file_is_named(copy: Store, tokens: dict[str, np.ndarray]) -> None:
    split = copy["train"]
    path = split.extent(2, "patch", 0, 1).path
    os.truncate(path, 100)
    with pytest.raises(StoreError, match=re.escape(f"'{path}' ends at byte 100, short of {BLOCK * 60}")):
        split.tokens(2, [8, 9, 10])
    np.testing.assert_array_equal(split.tokens(2, [7, 16]), tokens["patch"][[7, 16]].astype(np.float16))


def test_a_read_that_fails_leaks_no_descriptor(copy: Store) -> None:
    split = copy["train"]
    os.truncate(split.extent(2, "patch", 0, 1).path, 0)
    n_open = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StoreError, match="ends at byte 0"):
        split.tokens(2)
    assert len(os.listdir("/proc/self/fd")) == n_open


def test_an_unfinished_layer_is_refused_and_a_finished_one_read(
    make: Callable[..., Store], tokens: dict[str, np.ndarray], tmp_path: Path
) -> None:
    kinds = typed(tokens, "float16")
    split = write_some(tmp_path / "part", make(), kinds, {2: [0, 1, 2, 3, 4, 5], 10: [0, 1, 2, 4]})
    split.check_complete([2])
    np.testing.assert_array_equal(split.tokens(2), kinds["patch"])
    message = (
        f"^split 'train' layer_10 of '{tmp_path / 'part'}' is not complete "
        r"\(block 3 of 6 is missing\); run the same probe extract again to finish it$"
    )
    for layers in ([10], [2, 10]):
        with pytest.raises(StoreError, match=message):
            split.check_complete(layers)
    with pytest.raises(InputError, match="unknown layer in split 'train' '5'"):
        split.check_complete([5])
    np.testing.assert_array_equal(split.tokens(10, [33, 1]), kinds["patch"][[33, 1]])
    with pytest.raises(StoreError, match=r"block file '.*layer_10/patch/c\.0\.3\.0\.0' is not there; run the same"):
        split.tokens(10)


def test_a_complete_store_is_complete_even_without_its_journal(copy: Store) -> None:
    (copy.path / "journal.jsonl").unlink()
    copy["train"].check_complete([2, 10])


def test_an_unfinished_second_view_is_refused(
    make: Callable[..., Store], tokens: dict[str, np.ndarray], tmp_path: Path
) -> None:
    blocks = {2: list(range(6)), 10: list(range(6))}
    split = write_some(tmp_path / "part", make(), typed(tokens, "float16"), blocks, views=2)
    with pytest.raises(StoreError, match=r"layer_02 .* is not complete"):
        split.check_complete([2])


def typed(tokens: dict[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    return {kind: values.astype(np.float32 if kind == "mean" else dtype) for kind, values in tokens.items()}


def write_some(
    path: Path, like: Store, kinds: dict[str, np.ndarray], blocks: dict[int, list[int]], views: int = 1
) -> Any:
    """Write `kinds` to chosen blocks by layer of view 0 of a store declared like another; return its train split."""
    manifest = replace(like.manifest, complete=False, views=views, splits={"train": like.manifest.splits["train"]})
    with open_writer(path, manifest) as writer:
        writer.declare({"train": (np.zeros(N, np.int64), [str(i) for i in range(N)])})
        for layer, numbers in blocks.items():
            for block in numbers:
                key = BlockKey("train", 0, block)
                rows = slice(block * BLOCK, (block + 1) * BLOCK)
                writer.append(key, layer, {kind: values[rows] for kind, values in kinds.items()})
                writer.finish(key, layer)
        assert not writer.complete()
    return open_store(path)["train"]


@pytest.mark.parametrize("lost", ["labels/c.0", "labels/zarr.json", "ids/c.0"])
def test_labels_and_ids_that_are_not_there_are_not_taken_for_zeros(
    write_store: Callable[..., Store], tmp_path: Path, lost: str
) -> None:
    arrays = {"mean": np.zeros((9, 4), np.float32)}
    labels = {"train": np.zeros(9, np.int64)}
    split = write_store(tmp_path / "a.zarr", {"train": {0: arrays}}, labels, grid=(2, 2), block_rows=4)["train"]
    (split.store.path / "train" / lost).unlink()
    name = lost.partition("/")[0]
    with pytest.raises(StoreError, match=f"train/{name}' is not whole; run the same probe extract again"):
        _ = getattr(split, name)
