"""The writer: its requests, its remains after a failure, and the mark of a complete store. In both formats."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store import BlockKey, open_store, open_writer
from tokenprobe.testing.store_kit import (
    Contents,
    block_path,
    blocks,
    declare,
    fill,
    folder_of,
    make_contents,
    root_of,
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

    write(place("warm"), contents)  # files that libraries open once
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


def test_a_block_is_recorded_once_it_is_on_disk_and_the_root_before_it_is_written(
    place: Place, disk_calls: list[tuple[str, Path]]
) -> None:
    contents, path = make_contents().part({"test": {"layer_00": ["mean"]}}), place("s")
    (key,) = blocks(contents.manifest)
    block, root = block_path(path, "test/layer_00/mean", 0, 0), root_of(path)
    journal = folder_of(path) / "journal.jsonl"
    with open_writer(path, contents.manifest) as writer:
        declare(writer, contents)
        disk_calls.clear()
        fill(writer, contents, [key], batch=1)
        assert writer.seal()
    growing, new_root = (file.with_name(f"{file.name}.tmp") for file in (block, root))
    assert disk_calls == [
        *[("write", growing), ("fsync", growing), ("link", block), ("fsync", block.parent)],
        *[("write", journal), ("fsync", journal)],
        *[("write", journal), ("fsync", journal)],
        *[("fsync", new_root), ("rename", root), ("fsync", root.parent)],
    ]


def test_a_block_that_is_given_more_rows_than_it_holds_is_an_error_and_never_recorded(place: Place) -> None:
    contents, path = make_contents(), place("s")
    for block, n_rows in ((0, 4), (2, 3)):  # block 2 is the last one, with room for one more row
        key = BlockKey("train", 0, block)
        arrays = rows_of(contents, key, 3)
        name = re.escape(repr(str(block_path(path, "train/layer_03/mean", 0, block))))
        with pytest.raises(StoreError, match=f"^block file {name} holds {n_rows} rows, but {2 * n_rows} were given"):
            give_twice(path, contents, key, arrays)
        assert not list(folder_of(path).rglob("*.tmp"))
        with open_writer(path, contents.manifest) as writer:
            assert writer.missing_layers(key) == [0, 3]


def give_twice(path: Path, contents: Contents, key: BlockKey, arrays: dict[str, np.ndarray]) -> None:
    with open_writer(path, contents.manifest) as writer:
        declare(writer, contents)
        for _ in range(2):
            writer.append(key, 3, arrays)
        writer.finish_block(key, 3)
        writer.seal()


@pytest.mark.parametrize("kind", ["patch", "mean"])
def test_an_array_that_a_block_was_not_given_keeps_it_unfinished(place: Place, kind: str) -> None:
    contents, path = make_contents(), place("s")
    key = BlockKey("train", 0, 0)
    arrays = {name: values for name, values in rows_of(contents, key, 3).items() if name != kind}
    with open_writer(path, contents.manifest) as writer:
        declare(writer, contents)
        writer.append(key, 3, arrays)
        writer.finish_block(key, 3)
        assert writer.seal() is False
        assert writer.missing_layers(key) == [0, 3]


@pytest.mark.parametrize("value", [object(), float("nan")], ids=["object", "nan"])
def test_a_manifest_that_cannot_be_written_is_refused_before_the_store_is_emptied(place: Place, value: object) -> None:
    contents = make_contents()
    path = write(place("s"), contents)
    before = tree(path)
    recipe = replace(contents.manifest.recipe, model_args={"ratio": value})
    with (
        pytest.raises(StoreError, match="the manifest holds values that JSON does not have"),
        open_writer(path, replace(contents.manifest, recipe=recipe), overwrite=True),
    ):
        pass
    assert tree(path) == before
