"""The writer: what it asks for, what it leaves behind, and when it calls a store complete. In both formats."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from tokenprobe.errors import LockedError, NoSpaceError, StoreError
from tokenprobe.store import BlockKey, Targets, open_store, open_writer

from .kit import (
    block_path,
    blocks,
    declare,
    fill,
    folder_of,
    make_contents,
    rows_of,
    stamps,
    tree,
    write,
    write_some,
)

Place = Callable[[str], Path]


def test_complete_is_false_until_the_last_block_is_there(place: Place) -> None:
    contents, path = make_contents(), place("s")
    *most, last = blocks(contents.manifest)
    with open_writer(path, contents.manifest) as writer:
        declare(writer, contents)
        assert open_store(path).manifest.complete is False
        fill(writer, contents, most)
        assert writer.seal() is False
    assert open_store(path).manifest.complete is False
    with open_writer(path, contents.manifest) as writer:
        declare(writer, contents)
        fill(writer, contents, [last])
        assert open_store(path).manifest.complete is False
        assert writer.seal() is True
    assert open_store(path).manifest.complete is True


def test_only_what_is_missing_is_asked_for(place: Place) -> None:
    contents, path = make_contents(), place("s")
    first, second = BlockKey("train", 1, 0), BlockKey("train", 1, 1)
    with open_writer(path, contents.manifest) as writer:
        declare(writer, contents)
        assert writer.missing_layers(first) == [0, 3]
        fill(writer, contents, [first])
        writer.append(second, 3, rows_of(contents, second, 3))  # never finished
        assert writer.seal() is False
    with open_writer(path, contents.manifest) as writer:
        assert [writer.missing_layers(key) for key in (first, second)] == [[], [0, 3]]
    only_mean = contents.part({"train": {"layer_03": ["mean"]}})
    with open_writer(path, only_mean.manifest) as writer:
        assert [writer.missing_layers(key) for key in (first, second)] == [[], [3]]


def test_small_arrays_are_written_once_and_read_back(place: Place) -> None:
    contents, path = make_contents("int8"), place("s")
    name = "train/layer_00/patch_channels"
    with open_writer(path, contents.manifest) as writer:
        assert not writer.has_whole(name)
        writer.write_whole(name, contents.stored[name])
        assert writer.has_whole(name)
        writer.write_whole(name, contents.stored[name] + 1)
        np.testing.assert_array_equal(writer.read_whole(name), contents.stored[name], strict=True)


def test_closing_in_the_middle_leaves_no_half_written_file(place: Place) -> None:
    contents, path = make_contents(), place("s")

    def stop_in_the_middle() -> NoReturn:
        key = BlockKey("train", 0, 0)
        with open_writer(path, contents.manifest) as writer:
            declare(writer, contents)
            writer.append(key, 0, rows_of(contents, key, 0))
            raise KeyboardInterrupt

    write(place("warm"), contents)  # what libraries open once
    n_open = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KeyboardInterrupt):
        stop_in_the_middle()
    assert not list(folder_of(path).rglob("*.tmp")) and not list(folder_of(path).rglob("layer_*/*/*0.*"))
    assert len(os.listdir("/proc/self/fd")) == n_open
    write(path, contents)  # the lock is free
    assert tree(path) == tree(write(place("whole"), contents))


def test_one_writer_at_a_time(place: Place) -> None:
    contents, path = make_contents(), place("s")
    before = tree(write(path, contents))
    with (
        open_writer(path, contents.manifest),
        pytest.raises(LockedError, match=f"being written by process {os.getpid()} "),
        open_writer(path, contents.manifest, overwrite=True),
    ):
        pass
    assert tree(path) == before


def test_other_errors_of_the_system_pass_as_they_are(place: Place) -> None:
    contents, path = make_contents(), place("s")
    write(path, contents.part({"train": {"layer_00": ["mean"]}}))
    (folder_of(path) / "train" / "layer_03").write_text("in the way")
    with pytest.raises(OSError, match=r"File exists|Not a directory") as raised:
        write(path, contents)
    assert not isinstance(raised.value, NoSpaceError)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_an_image_left_out_later_moves_the_blocks_from_there_on(place: Place, dtype: str) -> None:
    """The channels of int8 are those of the first images: every block of its tokens is made again."""
    contents, path = make_contents(dtype), place("s")
    write_some(path, contents, [BlockKey("train", 0, block) for block in range(3)])
    finished = stamps(path)
    info = replace(contents.manifest.splits["train"], n_images=10, skipped=["train/6"])
    manifest = replace(contents.manifest, splits=contents.manifest.splits | {"train": info})
    kept_rows = np.delete(np.arange(11), 6)
    fewer = {
        name: values[kept_rows] if name == "train/labels" else values[:, kept_rows]
        for name, values in contents.stored.items()
        if name.startswith("train/") and not name.endswith("_channels")
    }
    ids = [f"train/{row}" for row in kept_rows]
    with open_writer(path, manifest) as writer:
        targets = {"train": Targets(fewer["train/labels"], ids)}
        writer.drop_moved_rows(targets)
        writer.declare(targets)
        kept = dtype == "float16"
        files = [
            block_path(path, f"train/layer_00/{kind}", 0, block) for kind in ("patch", "mean") for block in (0, 1, 2)
        ]
        assert [file.exists() for file in files] == [kept, False, False, True, False, False]
        assert writer.has_whole("train/layer_00/patch_channels") is False
    split = open_store(path)["train"]
    assert split.ids == ids
    np.testing.assert_array_equal(split.labels, fewer["train/labels"])
    if dtype == "float16":
        np.testing.assert_array_equal(split.tokens(0, range(4)), fewer["train/layer_00/patch"][0, :4])
        first = str(files[0].relative_to(folder_of(path)))
        assert stamps(path)[first] == finished[first]


def test_rows_of_a_complete_store_do_not_move(place: Place) -> None:
    contents, path = make_contents(), place("s")
    before = tree(write(path, contents))
    info = replace(contents.manifest.splits["train"], n_images=10, skipped=["train/6"])
    with (
        pytest.raises(StoreError, match=r"train\.n_images: stored 11, asked 10; train\.skipped: stored \[\]"),
        open_writer(path, replace(contents.manifest, splits={"train": info})),
    ):
        pass
    assert tree(path) == before
