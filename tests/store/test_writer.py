"""The writer: what it asks for, what it leaves behind, and when it calls a store complete. In both formats."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store import BlockKey, open_store, open_writer

from .kit import (
    blocks,
    declare,
    fill,
    folder_of,
    make_contents,
    rows_of,
    tree,
    write,
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
