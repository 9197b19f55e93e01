"""Tests of writing and growing a store, for every format. Part of `stores.py`."""

import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ..errors import InputError, StoreError
from ..store import open_store, open_writer
from ..store.array_spec import array_specs
from ..store.describe import describe
from ..store.formats import store_files
from .store_kit import (
    ALL,
    DTYPES,
    blocks,
    declare,
    fill,
    folder_of,
    journal_lines,
    make_contents,
    root_of,
    stamps,
    tree,
    write,
    write_some,
)
from .store_refusing import RefusingConformance

PARTS = {
    "a layer": {"train": {"layer_03": ALL}},
    "a split": {"test": {"layer_00": ALL, "layer_03": ALL}},
    "some arrays": {"train": {"layer_00": ["mean"], "layer_03": ["mean", "patch"]}, "test": {"layer_00": ["prefix"]}},
}


class WritingConformance(RefusingConformance):
    """Tests of a format: writing and growing here, refusing inherited."""

    def test_the_same_store_has_the_same_bytes_whenever_and_in_whatever_batches_it_is_made(
        self, place: Callable[[str], Path]
    ) -> None:
        first = {dtype: tree(write(place(dtype), make_contents(dtype))) for dtype in DTYPES}
        time.sleep(1 - time.time() % 1)  # times in files have a resolution of one second
        for dtype in DTYPES:
            for batch in (1, 3):
                path = place(f"{dtype} in batches of {batch}")
                assert tree(write(path, make_contents(dtype), batch=batch)) == first[dtype]

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_store_that_was_stopped_and_resumed_equals_one_written_in_one_go(
        self, place: Callable[[str], Path], dtype: str
    ) -> None:
        contents, path = make_contents(dtype), place("stopped")
        write_some(path, contents, blocks(contents.manifest)[1:4])
        finished = stamps(path)
        assert tree(write(path, contents)) == tree(write(place("whole"), contents))
        assert finished.items() <= stamps(path).items()

    @pytest.mark.parametrize("first", PARTS.values(), ids=PARTS)
    def test_a_store_that_grew_equals_one_written_whole(
        self, place: Callable[[str], Path], first: dict[str, dict[str, list[str]]]
    ) -> None:
        contents, path = make_contents(), place("grown")
        write(path, contents.part(first))
        assert open_store(path).manifest.complete
        files, had = store_files(path), stamps(path)
        assert tree(write(path, contents)) == tree(write(place("whole"), contents))
        whole = tuple(f"{split}/{name}/" for split, layers in first.items() for name in layers if layers[name] == ALL)
        specs = [spec for spec in array_specs(files.read_manifest()) if spec.name.startswith(whole)]
        kept = {name for spec in specs for name in files.block_names(spec)}
        kept |= {name for split in first for name in files.whole_names(f"{split}/ids")}
        assert {name for name in kept if stamps(path)[name] != had[name]} == set()

    @pytest.mark.parametrize("dtype", ["float16", "int8"])
    def test_views_that_are_added_make_the_store_that_has_them_from_the_start(
        self, place: Callable[[str], Path], dtype: str
    ) -> None:
        contents, path = make_contents(dtype), place("grown")
        one = {split: replace(info, views=1, augmentation=None) for split, info in contents.manifest.splits.items()}
        write(path, replace(contents, manifest=replace(contents.manifest, splits=one)))
        assert open_store(path)["train"].info.views == 1
        had, metadata = stamps(path), store_files(path).metadata_names(contents.manifest)
        assert tree(write(path, contents)) == tree(write(place("whole"), contents))
        assert {name: stamp for name, stamp in had.items() if name not in metadata}.items() <= stamps(path).items()

    def test_asking_for_part_of_a_store_keeps_all_of_it(self, place: Callable[[str], Path]) -> None:
        contents, path = make_contents(), place("s")
        write(path, contents)
        before, stamped = tree(path), stamps(path)
        write(path, contents.part({"test": {"layer_03": ["mean"]}}))
        assert (tree(path), stamps(path)) == (before, stamped)

    def test_a_store_that_is_being_written_opens_for_what_is_complete_and_says_so(
        self, place: Callable[[str], Path]
    ) -> None:
        contents, path = make_contents(), place("s")
        patch = contents.stored["train/layer_00/patch"]
        of_train = [key for key in blocks(contents.manifest) if key.split == "train"]
        with open_writer(path, contents.manifest) as writer:
            declare(writer, contents)
            fill(writer, contents, of_train, layers=[0])
            fill(writer, contents, of_train[:2])
            assert writer.seal() is False
            store = open_store(path)
            assert not store.manifest.complete
            train = store["train"]
            train.check_complete([0])
            np.testing.assert_array_equal(train.tokens(0, view=1), patch[1])
            message = (
                f"^train/layer_03/mean of {str(path)!r} is not complete \\(4 of 6 blocks are missing\\); run the same "
                "probe extract again, with this layer and --views 2$"
            )
            for layers in ([3], [0, 3]):
                with pytest.raises(StoreError, match=message):
                    train.check_complete(layers)
            with pytest.raises(InputError, match="unknown layer in split 'train' '5'"):
                train.check_complete([5])
            np.testing.assert_array_equal(train.tokens(3, [7, 1]), contents.stored["train/layer_03/patch"][0, [7, 1]])
            shown = "\n".join(describe(store))
            assert "not complete: finished layers can be read" in shown
            assert re.search(r"unfinished +layers? 3: \d( to \d)? of 6 blocks are written", shown)
            with self.library(path) as opened:
                assert np.isnan(opened["train/layer_03/mean"][1]).all()

    @pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 3)], ids=["deleted", "truncated"])
    def test_a_recorded_file_that_is_gone_or_cut_is_written_again(
        self, place: Callable[[str], Path], damage: Callable[[Path], None]
    ) -> None:
        contents, path = make_contents("int8"), place("s")
        write(path, contents)
        before, files = tree(path), store_files(path)
        arrays = ["train/ids", "test/labels", "train/layer_00/patch_channels"]
        specs = [spec for spec in array_specs(files.read_manifest()) if spec.name.startswith("train/layer_03/")]
        together = [files.whole_names(name) for name in arrays] + [[files.block_name(spec, 0, 0) for spec in specs]]
        for names in together:
            stamped = stamps(path)
            damage(folder_of(path) / names[-1])
            write(path, contents)
            assert tree(path) == before, names
            changed = {file for file, stamp in stamps(path).items() if stamped[file] != stamp}
            assert names[-1] in changed and changed <= {*names}

    def test_the_journal_records_every_file_and_the_root_with_its_content(self, place: Callable[[str], Path]) -> None:
        from xxhash import xxh3_64_hexdigest

        contents, path = make_contents("int8"), place("s")
        write(path, contents)
        files, entries = store_files(path), [entry for entry in journal_lines(path) if "file" in entry]
        recorded = {entry["file"]: (entry["size"], entry["xxh3"]) for entry in entries}
        declared = {name: folder_of(path) / name for name in files.declared(files.read_manifest())}
        data = {name: file.read_bytes() for name, file in (declared | {"manifest": root_of(path)}).items()}
        assert recorded == {name: (len(content), xxh3_64_hexdigest(content)) for name, content in data.items()}
        roots = [entry["content"] for entry in entries if entry["file"] == "manifest"]
        assert roots == [contents.manifest.to_json(), replace(contents.manifest, complete=True).to_json()]


def assert_tokens_equal(read: npt.NDArray[Any], wanted: npt.NDArray[Any], dtype: str, message: str = "") -> None:
    """int8 tokens are computed in float32: if two terms cancel, the rounding error of the larger one remains."""
    assert (read.dtype, read.shape) == (wanted.dtype, wanted.shape), message
    tolerance = {"rtol": 2**-10, "atol": 2e-5} if dtype == "int8" else {"rtol": 0, "atol": 0}
    np.testing.assert_allclose(read, wanted, **tolerance, err_msg=message)
