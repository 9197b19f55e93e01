"""Requests that a reader accepts and refuses. The values it reads are tested for each format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenprobe.errors import InputError, MissingError, StoreError
from tokenprobe.store import Split, array_reader, open_store
from tokenprobe.store.export import export_store, select
from tokenprobe.store.journal import Journal
from tokenprobe.testing.store_kit import DTYPES, block_path, folder_of, make_contents, write

PATCH = make_contents().stored["train/layer_03/patch"][0]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From a store that tests only read; `test` has no prefix tokens and no layer 0."""
    contents = make_contents()
    of_train = contents.manifest.splits["train"].layers
    some = contents.part({"train": of_train, "test": {"layer_03": ["mean", "patch"]}})
    return write(tmp_path_factory.mktemp("stores") / "s", some)


@pytest.fixture
def split(path: Path) -> Split:
    return open_store(path)["train"]


def test_out_is_filled_in_place_and_returned(split: Split) -> None:
    out = np.full((3, 6, 5), np.nan, np.float16)
    assert split.tokens(3, [10, 1, 2], out=out) is out
    np.testing.assert_array_equal(out, PATCH[[10, 1, 2]])


def test_out_of_another_type_is_filled_where_that_type_is_asked_for(split: Split) -> None:
    out = np.full((3, 6, 5), np.nan, np.float32)
    assert split.tokens(3, [10, 1, 2], out=out, dtype=np.float32) is out
    np.testing.assert_array_equal(out, PATCH[[10, 1, 2]])


@pytest.mark.parametrize(
    "out", [np.empty((2, 6, 5), np.float16), np.empty((3, 6, 5), np.float32), np.empty((3, 5, 6), np.float16).mT]
)
def test_an_out_of_another_shape_type_or_stride_is_not_filled(split: Split, out: np.ndarray) -> None:
    with pytest.raises(AssertionError):
        split.tokens(3, [10, 1, 2], out=out)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_converted_piece_by_piece_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr(array_reader, "CONVERTED_BYTES", 500)
    n = 133
    contents = make_contents(dtype, counts={"train": n, "test": 1}, block_rows=50)
    split = open_store(write(tmp_path / "s", contents))["train"]
    rows = np.random.default_rng(0).permutation(n)
    values = contents.returned["train/layer_00/patch"][1, rows].astype(np.float32)
    np.testing.assert_allclose(split.tokens(0, rows, view=1, dtype="float32"), values, rtol=2**-10, atol=1e-3)


def test_names_and_shapes(path: Path, split: Split) -> None:
    store = open_store(str(path))
    assert (store.splits, store.layers, store["test"].layers) == (["test", "train"], [0, 3], [3])
    assert (split.shape(3).grid, split.shape(3).dim, split.shape(3).n_prefix) == ((2, 3), 5, 2)
    assert [each.has(3, "prefix") for each in (split, store["test"])] == [True, False]


@pytest.mark.parametrize("rows", [[-1], [0, 11], [3, -1, 2]])
def test_rows_that_are_not_there_are_refused(split: Split, rows: list[int]) -> None:
    message = f"^rows {min(rows)} to {max(rows)} asked of split 'train', which has rows 0 to 10$"
    with pytest.raises(InputError, match=message):
        split.tokens(3, rows)


@pytest.mark.parametrize("rows", [np.arange(11) % 2 == 0, [0.5, 1.9]], ids=["mask", "fractions"])
def test_what_is_no_row_number_is_not_taken_for_one(split: Split, rows: Any) -> None:
    with pytest.raises(
        InputError, match=r"^rows of type (bool|float64) asked of split 'train'; give integer row numbers"
    ):
        split.tokens(3, rows)


@pytest.mark.parametrize("rows", [3, [[1, 2], [3, 4]]])
def test_rows_are_a_list(split: Split, rows: Any) -> None:
    with pytest.raises(
        InputError, match=r"^rows of shape \((|2, 2)\) asked of split 'train'; give a list of row numbers$"
    ):
        split.tokens(3, rows)


def test_unknown_names_list_what_there_is(path: Path, split: Split) -> None:
    store = open_store(path)
    with pytest.raises(InputError, match=r"^unknown split 'validation'; known: .*train"):
        store["validation"]
    for ask in (split.tokens, split.reader, split.shape, lambda layer: split.has(layer, "patch")):
        with pytest.raises(InputError, match=r"^unknown layer in split 'train' '1'; known: 0, 3$"):
            ask(1)
    with pytest.raises(InputError, match=r"^unknown layer in split 'test' '0'; known: 3$"):
        store["test"].tokens(0)
    with pytest.raises(InputError, match=r"^unknown array in test/layer_03 'prefix'; known: mean, patch$"):
        store["test"].tokens(3, kind="prefix")


@pytest.mark.parametrize("view", [-1, 2])
def test_a_view_that_is_not_there_is_refused(path: Path, split: Split, view: int) -> None:
    message = rf"^view {view} asked of split 'train' of '{path}', which has 2 view\(s\)$"
    with pytest.raises(InputError, match=message):
        split.tokens(3, view=view)
    with pytest.raises(InputError, match=message):
        split.reader(3, view=view)


@pytest.mark.parametrize("name", ["absent", "absent.h5"])
def test_nothing_is_told_apart_from_a_store(tmp_path: Path, name: str) -> None:
    with pytest.raises(MissingError, match=f"^no store at '{tmp_path / name}'; make one with probe extract$"):
        open_store(tmp_path / name)


def test_a_complete_store_is_complete_even_without_its_journal(place: Callable[[str], Path]) -> None:
    path = write(place("s"), make_contents())
    (folder_of(path) / "journal.jsonl").unlink()
    open_store(path)["train"].check_complete([0, 3])


def test_settings_are_those_that_the_journal_records_wherever_it_is_at_hand(
    place: Callable[[str], Path], tmp_path: Path
) -> None:
    path = write(place("s"), make_contents())
    assert open_store(path).recorded_settings == {}
    journal = Journal(folder_of(path))
    journal.add_event("start", config={"layers": "0,3"})
    journal.close()
    store = open_store(path)
    assert store.recorded_settings == {"layers": "0,3"}
    export_store(store, tmp_path / "out.zarr", "zarr", select(store, "zarr"))
    assert open_store(tmp_path / "out.zarr").recorded_settings == {"layers": "0,3"}
    assert open_store(f"file://{tmp_path / 'out.zarr'}").recorded_settings == {"layers": "0,3"}


def test_a_block_lost_after_the_store_was_opened_is_named_as_one_that_never_was(place: Callable[[str], Path]) -> None:
    path = write(place("s"), make_contents())
    split = open_store(path)["train"]
    lost = block_path(path, "train/layer_03/prefix", 1, 2)
    lost.unlink()
    with pytest.raises(
        StoreError, match=f"^block file '{lost}' is missing; run the same probe extract again, or probe"
    ):
        split.tokens(3, [9], kind="prefix", view=1)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "U4", "bfloat16"])
def test_a_type_that_would_change_the_numbers_is_refused(split: Split, dtype: str) -> None:
    with pytest.raises(
        InputError, match=f"^dtype '{dtype}' asked of 'train/layer_03/patch', stored as float16: expected"
    ):
        split.tokens(3, dtype=dtype)
