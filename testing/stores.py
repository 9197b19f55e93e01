"""What every store format must pass: reading, bytes, growth, kills, refusals, and its own library as the oracle."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..errors import StoreError
from ..store import Split, Store, Targets, open_store, open_writer
from ..store.array_spec import array_spec
from ..store.formats import store_files
from ..store.verify import Problem, verify
from .store_kit import (
    BLOCK,
    COUNTS,
    DTYPES,
    LAYERS,
    Contents,
    block_path,
    declare,
    folder_of,
    make_contents,
    root_of,
    write,
)
from .store_writing import WritingConformance, assert_tokens_equal

N = COUNTS["train"]
ROW_NUMBERS = {
    "one": [10],
    "sorted": [0, 1, 3, 4, 5, 9],
    "reversed": list(range(N))[::-1],
    "repeated": [3, 3, 10, 0, 3, 10],
    "shuffled": np.random.default_rng(1).permutation(N),
    "a small type": np.array([9, 2, 3], dtype=np.uint8),
    "the last, partial block": [8, 10, 9],
    "none": [],
}


class StoreConformance(WritingConformance):
    """Tests of a store format. Inherit this class, give the format's suffix, and open its stores with its library.

    For the format of docs/your-own.md:

        class TestParts(StoreConformance):
            suffix = ".parts"

            @contextmanager
            def library(self, path):
                with h5py.File(path) as opened:
                    yield opened

            def attributes(self, opened):
                return json.loads(opened.attrs["manifest"])

            def make_foreign(self, path):
                with h5py.File(path, "w") as file:
                    file["x"] = [1, 2]

    The tests find files by the format's own `folder`, `root`, `block_name`, `whole_names` and `metadata_names`. Only
    the library can show that a name or a layout is right, so `library` must run no code of the format.

    Attributes:
        suffix: of a store's name, such as ".zarr"; it chooses the format in `tokenprobe.store.formats.FORMATS`.
    """

    @pytest.fixture
    def written(self, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Store, Contents]]:
        """Give a complete store of a dtype, written once. Tests only read it."""
        folder = tmp_path_factory.getbasetemp() / type(self).__name__
        folder.mkdir(exist_ok=True)

        def give(dtype: str) -> tuple[Store, Contents]:
            path, contents = folder / f"{dtype}{self.suffix}", make_contents(dtype)
            return open_store(path if path.exists() else write(path, contents)), contents

        return give

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_what_is_written_reads_back(self, written: Callable[..., Any], dtype: str) -> None:
        store, contents = written(dtype)
        for name, values in contents.returned.items():
            split, layer, kind = parts(store, name)
            for view in range(len(values)):
                for how, rows in ROW_NUMBERS.items():
                    wanted = values[view][np.asarray(rows, dtype=int) % len(split)]
                    read = split.tokens(layer, np.asarray(rows, dtype=int) % len(split), kind=kind, view=view)
                    assert_tokens_equal(read, wanted, dtype, f"{name}, view {view}, {how} rows")
                assert_tokens_equal(split.tokens(layer, kind=kind, view=view), values[view], dtype, name)
            assert split.dtype(kind) == values.dtype

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_what_is_stored_reads_back_as_it_is(self, written: Callable[..., Any], dtype: str) -> None:
        store, contents = written(dtype)
        for name in token_arrays(contents):
            split, layer, kind = parts(store, name)
            values = contents.stored[name]
            for view in range(len(values)):
                rows = np.arange(len(split))[::-1]
                read = split.tokens(layer, rows, kind=kind, view=view, dtype=split.stored_dtype(kind))
                np.testing.assert_array_equal(read, values[view][rows], strict=True, err_msg=name)
            assert split.stored_dtype(kind) == values.dtype

    @pytest.mark.parametrize("asked", ["float16", "float32", "float64"])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_another_type_may_be_asked_for(self, written: Callable[..., Any], dtype: str, asked: str) -> None:
        store, contents = written(dtype)
        values = contents.returned["train/layer_00/patch"][0]
        read = store["train"].tokens(0, dtype=asked)
        assert read.dtype == asked
        np.testing.assert_allclose(read, values.astype(asked), rtol=2**-10, atol=2e-4)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_library_shows_the_same_numbers_from_anywhere(
        self, written: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
    ) -> None:
        store, contents = written(dtype)
        monkeypatch.chdir(tmp_path)
        for path in (store.path, Path(os.path.relpath(store.path))):
            with self.library(path) as opened:
                for name, values in contents.stored.items():
                    np.testing.assert_array_equal(np.asarray(opened[name][...]), values, strict=True, err_msg=name)
                    marked = dtype == "bfloat16" and name.endswith(("patch", "prefix"))
                    assert dict(opened[name].attrs) == ({"bfloat16": True} if marked else {}), name

    def test_a_store_may_be_moved_as_a_whole(self, place: Callable[[str], Path]) -> None:
        contents, path = make_contents(), write(place("here"), make_contents())
        there = path.parent.rename(path.parent.with_name("there")) / path.name
        with self.library(there) as opened:
            for name, values in contents.stored.items():
                np.testing.assert_array_equal(np.asarray(opened[name][...]), values, err_msg=name)
        patch = contents.stored["train/layer_00/patch"]
        np.testing.assert_array_equal(open_store(there)["train"].tokens(0), patch[0])
        assert verify(there) == []

    def test_labels_ids_classes_and_names(self, written: Callable[..., Any]) -> None:
        store, contents = written("float16")
        assert (store.splits, store.layers) == (["test", "train"], list(LAYERS))
        for name, n in COUNTS.items():
            split = store[name]
            assert (len(split), split.layers, split.classes) == (n, list(LAYERS), ["ant", "bee", "cat"])
            np.testing.assert_array_equal(split.labels, contents.stored[f"{name}/labels"], strict=True)
            assert split.ids == [f"{name}/{row}" for row in range(n)]
            assert {type(key) for key in split.ids} == {str}
            with self.library(store.path) as opened:
                shown = opened[f"{name}/ids"][...]
                assert [key.decode() if isinstance(key, bytes) else key for key in shown] == split.ids

    def test_ids_of_any_length_and_script_come_back(self, place: Callable[[str], Path]) -> None:
        ids = ["", "a/b c.png", "Käfer/蜂.png", "x" * 1000, "\n", *map(str, range(6))]
        labels = np.array([2, 1, 0, *[1] * 8])
        path, contents = place("s"), make_contents()
        with open_writer(path, contents.part({"train": {"layer_00": ["mean"]}}).manifest) as writer:
            writer.declare({"train": Targets(labels, ids)})
        split = open_store(path)["train"]
        assert split.ids == ids
        np.testing.assert_array_equal(split.labels, labels, strict=True)

    @pytest.mark.parametrize("n_classes", [1, 7, 400])
    def test_labels_with_an_axis_of_classes(self, place: Callable[[str], Path], n_classes: int) -> None:
        labels = np.random.default_rng(0).integers(0, 2, (11, n_classes))
        contents = make_contents(counts={"train": 11})
        contents.stored["train/labels"] = labels
        train = replace(contents.manifest.splits["train"], classes=[f"class {i}" for i in range(n_classes)])
        contents = replace(contents, manifest=replace(contents.manifest, splits={"train": train}))
        path = write(place("s"), contents)
        np.testing.assert_array_equal(open_store(path)["train"].labels, labels, strict=True)
        with self.library(path) as opened:
            np.testing.assert_array_equal(np.asarray(opened["train/labels"][...]), labels, strict=True)
        assert verify(path) == []
        files = [folder_of(path) / name for name in store_files(path).whole_names("train/labels")]
        inodes = [file.stat().st_ino for file in files]
        with open_writer(path, contents.manifest) as writer:
            declare(writer, contents)
        assert [file.stat().st_ino for file in files] == inodes, "nothing is written again"
        for file in files:
            name = str(file.relative_to(folder_of(path)))
            whole = file.read_bytes()
            file.unlink()
            assert verify(path) == [Problem(name, "missing", "missing")]
            with pytest.raises(StoreError, match="is not complete; run the same probe extract again"):
                _ = open_store(path)["train"].labels
            file.write_bytes(whole)

    def test_the_library_shows_the_manifest(self, written: Callable[..., Any]) -> None:
        store, contents = written("int8")
        with self.library(store.path) as opened:
            shown = self.attributes(opened)
        assert shown == replace(contents.manifest, complete=True).to_json()
        assert (shown["format"], shown["complete"], shown["dtype"]) == (1, True, "int8")

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_extents_are_the_bytes_of_the_rows_without_the_padding(
        self, written: Callable[..., Any], dtype: str
    ) -> None:
        store, contents = written(dtype)
        for name in token_arrays(contents):
            split, layer, kind = parts(store, name)
            for view, values in enumerate(contents.stored[name]):
                spec = array_spec(store.manifest, split.name, f"layer_{layer:02d}", kind)
                extents = [store.arrays.extent(spec, view, block) for block in range(-(-len(split) // BLOCK))]
                data = [path.read_bytes()[offset : offset + size] for path, offset, size in extents]
                assert b"".join(data) == values.tobytes(), name

    def test_every_declared_file_is_there_and_no_other(self, written: Callable[..., Any]) -> None:
        for dtype in DTYPES:
            store, _ = written(dtype)
            folder = folder_of(store.path)
            found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
            own = {"journal.jsonl", ".lock", os.path.relpath(root_of(store.path), folder)}
            assert store_files(store.path).declared(store.manifest) == found - own
            assert verify(store.path) == []

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_block_deleted_by_hand_is_missing_to_the_library_and_an_error_to_us(
        self, place: Callable[[str], Path], dtype: str
    ) -> None:
        contents, path = make_contents(dtype), place("s")
        write(path, contents)
        fills = {"float16": np.nan, "bfloat16": 0x7FC0, "float32": np.nan, "int8": -128}
        lost = {"patch": fills[dtype], "mean": np.nan} | ({"patch_scale": np.nan} if dtype == "int8" else {})
        for kind, fill_value in lost.items():
            name = f"train/layer_00/{kind}"
            block_path(path, name, 1, 1).unlink()
            wanted = contents.stored[name].copy()
            wanted[1, 4:8] = fill_value
            with self.library(path) as opened:
                np.testing.assert_array_equal(np.asarray(opened[name][...]), wanted)
        split = open_store(path)["train"]
        assert_tokens_equal(
            split.tokens(0, [0, 8], view=1), contents.returned["train/layer_00/patch"][1, [0, 8]], dtype
        )
        gone = re.escape(repr(str(block_path(path, "train/layer_00/patch", 1, 1))))
        for rows in ([5], None):
            with pytest.raises(StoreError, match=f"^block file {gone} is missing; run the same probe extract again"):
                split.tokens(0, rows, view=1)

    def test_what_stands_for_a_missing_block_is_no_number(self) -> None:
        assert np.isnan(np.array([0x7FC0 << 16], np.uint32).view(np.float32)[0])
        assert all(np.abs(v.astype(int)).max() <= 127 for v in make_contents("int8").stored.values() if v.dtype == "i1")


def parts(store: Store, name: str) -> tuple[Split, int, str]:
    """Split "train/layer_03/patch" into its parts."""
    split, layer, kind = name.split("/")
    return store[split], int(layer.removeprefix("layer_")), kind


def token_arrays(contents: Contents) -> list[str]:
    """Return the names of the arrays that are stored in blocks."""
    return [name for name in contents.stored if "/layer_" in name and not name.endswith("_channels")]
