"""Rows that move because an image is left out or added: earlier blocks stay, a kill does no harm."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store import BlockKey, Targets, open_store, open_writer
from tokenprobe.store.formats import store_files
from tokenprobe.store.moved_rows import files_from, first_difference
from tokenprobe.store.verify import verify
from tokenprobe.testing.forks import count_steps, fork_and_kill
from tokenprobe.testing.store_kit import (
    ALL,
    Contents,
    block_path,
    blocks,
    declare,
    fill,
    folder_of,
    make_contents,
    says_complete,
    stamps,
    targets_of,
    tree,
    write,
    write_some,
)

Place = Callable[[str], Path]


@pytest.mark.parametrize(
    ("stored", "ids", "row"),
    [
        ("abcd", "abcd", None),
        ("", "", None),
        ("abcd", "abd", 2),
        ("abcd", "abc", 3),
        ("abc", "abcd", 3),
        ("abcd", "bcd", 0),
        ("abcd", "abdc", 2),
        ("abcd", "", 0),
    ],
)
def test_the_first_row_that_differs(stored: Sequence[str], ids: Sequence[str], row: int | None) -> None:
    assert first_difference(list(stored), list(ids)) == row


def test_files_of_a_row_are_its_block_and_those_behind_it(place: Place) -> None:
    contents, path = make_contents(), place("s")
    splits = contents.manifest.splits
    splits["training"] = splits["train"]  # another split with the same beginning of its name
    arrays = [f"train/layer_{layer}/{kind}" for layer in ("00", "03") for kind in ALL]
    for row, first in ((0, 0), (3, 0), (4, 1), (7, 1), (8, 2), (10, 2)):
        wanted = {block_path(path, name, view, n) for name in arrays for view in (0, 1) for n in range(first, 3)}
        assert files_of_row(path, contents, row) == wanted, row


def test_the_channels_of_int8_tokens_depend_on_the_first_1024_rows_and_all_their_blocks_with_them(place: Place) -> None:
    contents, path = make_contents("int8", counts={"train": 1100, "test": 3}, block_rows=128), place("s")
    arrays = [f"train/layer_{layer}/{kind}" for layer in ("00", "03") for kind in (*ALL, "patch_scale", "prefix_scale")]
    for row, first in ((1023, 7), (1024, 8), (1099, 8)):
        behind = {block_path(path, name, view, n) for name in arrays for view in (0, 1) for n in range(first, 9)}
        tokens = [name for name in arrays if name.endswith(("patch", "prefix"))]
        standardised = [name for name in arrays if not name.endswith("mean")]
        before = {block_path(path, name, view, n) for name in standardised for view in (0, 1) for n in range(first)}
        channels = {
            folder_of(path) / file for name in tokens for file in store_files(path).whole_names(name + "_channels")
        }
        assert files_of_row(path, contents, row) == behind | (before | channels if row < 1024 else set()), row


def files_of_row(path: Path, contents: Contents, row: int) -> set[Path]:
    return {folder_of(path) / name for name in files_from(store_files(path), contents.manifest, "train", row)}


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_an_image_left_out_later_moves_the_blocks_from_there_on(place: Place, dtype: str) -> None:
    """The channel statistics of int8 come from the first images, so every block of its tokens is made again."""
    contents, path = make_contents(dtype), place("s")
    write_some(path, contents, [BlockKey("train", 0, block) for block in range(3)])
    finished, fewer = stamps(path), contents.without("train", [6])
    with open_writer(path, fewer.manifest) as writer:
        declare(writer, fewer)
        kept = dtype == "float16"
        files = [
            block_path(path, f"train/layer_00/{kind}", 0, block) for kind in ("patch", "mean") for block in (0, 1, 2)
        ]
        assert [file.exists() for file in files] == [kept, False, False, True, False, False]
    split = open_store(path)["train"]
    assert split.ids == [f"train/{row}" for row in range(11) if row != 6]
    np.testing.assert_array_equal(split.labels, np.delete(contents.stored["train/labels"], 6))
    if kept:
        np.testing.assert_array_equal(split.tokens(0, range(4)), contents.stored["train/layer_00/patch"][0, :4])
        first = str(files[0].relative_to(folder_of(path)))
        assert stamps(path)[first] == finished[first]
    assert tree(write(path, fewer)) == tree(write(place("fresh"), fewer))


def test_nothing_is_dropped_unless_a_stored_image_is_left_out(place: Place) -> None:
    contents, path = make_contents("int8"), place("s")
    write_some(path, contents, blocks(contents.manifest)[:3])
    before = tree(path)
    elsewhere = contents.without("train", [])
    elsewhere.manifest.splits["train"].skipped.append("train/none of these")
    for other in (contents, elsewhere):
        with open_writer(path, other.manifest) as writer:
            writer.drop_moved_rows(targets_of(contents))
        assert tree(path) == before


def test_rows_that_differ_for_no_such_reason_are_refused_and_left_alone(place: Place) -> None:
    contents, path = make_contents(), place("s")
    write(path, contents)
    before = tree(path)
    ids = contents.ids("train")
    cases = {
        (7, "'train/7'", "'train/8'"): [*ids[:7], ids[8], ids[7], *ids[9:]],
        (10, "'train/10'", "nothing"): ids[:10],
        (11, "nothing", "'more'"): [*ids, "more"],
    }
    for (row, stored, asked), others in cases.items():
        targets = {"train": Targets(contents.stored["train/labels"], others)}
        message = (
            rf"^split 'train' of {str(path)!r} holds other images from row {row} on "
            rf"\(stored {stored}, asked {asked}\); write to another store, or give --overwrite$"
        )
        with open_writer(path, contents.manifest) as writer:
            writer.drop_moved_rows(targets)
            with pytest.raises(StoreError, match=message):
                writer.declare(targets)
        assert tree(path) == before


def test_rows_that_moved_are_refused_until_they_are_dropped(place: Place) -> None:
    contents, path = make_contents(), place("s")
    write_some(path, contents, blocks(contents.manifest)[:3])
    before, fewer = tree(path), contents.without("train", [6])
    with (
        open_writer(path, fewer.manifest) as writer,
        pytest.raises(StoreError, match=r"holds other images from row 6 on \(stored 'train/6', asked 'train/7'\)"),
    ):
        writer.declare(targets_of(fewer))
    assert tree(path) == before


def tried(n_steps: int, dtype: str) -> range:
    """Return the steps to kill at: all for float16. A store of int8 has twice as many, most of them alike."""
    return range(0, n_steps, 1 if dtype == "float16" else 3)


@pytest.mark.parametrize(("dtype", "again"), [("float16", [8]), ("int8", [2, 8])], ids=["the same", "more left out"])
def test_a_kill_while_rows_are_dropped_loses_nothing_and_leaves_nothing_wrong(
    place: Place, dtype: str, again: list[int]
) -> None:
    """Row 8 has its own block. Without that row every declared block exists, but the store is not complete."""
    contents = make_contents(dtype, counts={"train": 9}).part({"train": {"layer_00": KINDS[dtype]}})
    first, then = contents.without("train", [8]), contents.without("train", again)
    expected, done = (tree(write(place(name), each)) for name, each in (("first", first), ("then", then)))
    source = place("source")
    write_some(source, contents, [key for key in blocks(contents.manifest) if key.block < 2])
    kept = {name: stamp for name, stamp in stamps(source).items() if "layer_00/" in name and "zarr.json" not in name}

    def start(path: Path) -> None:
        with open_writer(path, first.manifest) as writer:
            declare(writer, first)

    counted = copy_of(source, place("counted"))
    n_steps = count_steps(lambda: start(counted))
    assert n_steps > 20
    for step in tried(n_steps, dtype):
        path = copy_of(source, place(str(step)))
        assert fork_and_kill(partial(start, path), step)
        assert tree(path) == expected or not says_complete(path), f"killed at step {step}"
        assert tree(write(path, then)) == done, f"killed at step {step}"
        if again == [8]:
            assert kept.items() <= stamps(path).items(), f"killed at step {step}: made finished blocks again"
        shutil.rmtree(path.parent)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_kill_while_a_split_grows_loses_nothing_and_leaves_nothing_wrong(place: Place, dtype: str) -> None:
    """From 6 rows, one and a half blocks, to 11. The first block of float16 stays. Fewer rows have other channels."""
    whole = make_contents(dtype).part({"train": {"layer_00": KINDS[dtype]}})
    grown = limited(whole, 11, {"n": None, "seed": 0, "after": [6]})
    small = limited(whole, 6, {"n": 6, "seed": 0})
    expected, source = tree(write(place("expected"), grown)), write(place("source"), small)
    first_block = {name: stamp for name, stamp in stamps(source).items() if name.endswith(("c.0.0.0.0", "0.0.h5"))}

    def start(path: Path) -> None:
        with open_writer(path, grown.manifest) as writer:
            declare(writer, grown)

    counted = copy_of(source, place("counted"))
    n_steps = count_steps(lambda: start(counted))
    assert n_steps > 20
    for step in tried(n_steps, dtype):
        path = copy_of(source, place(str(step)))
        assert fork_and_kill(partial(start, path), step)
        as_before = tree(source).items() <= tree(path).items()
        assert as_before or not says_complete(path), f"killed at step {step}"
        assert tree(write(path, grown)) == expected, f"killed at step {step}"
        if dtype == "float16":
            assert first_block and first_block.items() <= stamps(path).items(), f"killed at step {step}"
        shutil.rmtree(path.parent)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_kill_between_the_name_of_a_block_and_its_record_leaves_no_damaged_file(place: Place, dtype: str) -> None:
    """The file has the size of the one that was removed, and other bytes: an old record must not vouch for it."""
    whole = make_contents(dtype).part({"train": {"layer_00": KINDS[dtype]}})
    grown = limited(whole, 11, {"n": None, "seed": 0, "after": [6]})
    source = write(place("source"), limited(whole, 6, {"n": 6, "seed": 0}))
    expected, last = tree(write(place("expected"), grown)), BlockKey("train", 0, 1)

    def grow(path: Path) -> None:
        with open_writer(path, grown.manifest) as writer:
            declare(writer, grown)
            fill(writer, grown, [last])
            writer.flush()

    counted = copy_of(source, place("counted"))
    n_steps = count_steps(lambda: grow(counted))
    for step in range(n_steps // 2, n_steps, 4):
        path = copy_of(source, place(str(step)))
        assert fork_and_kill(partial(grow, path), step)
        damaged = [problem.line for problem in verify(path) if problem.kind == "damaged"]
        assert not damaged, f"killed at step {step}"
        assert tree(write(path, grown)) == expected and verify(path) == []
        shutil.rmtree(path.parent)


def test_a_split_grows_from_a_limit_of_the_same_seed_alone(place: Place) -> None:
    whole, path = make_contents(), place("s")
    write(path, limited(whole, 6, {"n": 6, "seed": 0}))
    before = tree(path)
    for limit, named in {
        '{"n": 11, "seed": 1, "after": [6]}': "train.limit.seed: stored 0, asked 1",
        '{"n": 11, "seed": 0, "after": [5]}': "train.limit.n: stored 6, asked 11",
        '{"n": 11, "seed": 0}': "train.limit.n: stored 6, asked 11",
        "null": "train.limit: stored {'n': 6, 'seed': 0}, asked None",
    }.items():
        with (
            pytest.raises(StoreError, match=re.escape(named)),
            open_writer(path, limited(whole, 11, json.loads(limit)).manifest),
        ):
            pass
        assert tree(path) == before


def limited(contents: Contents, n: int, limit: dict[str, Any] | None) -> Contents:
    """Keep the first rows of `train`, of a given limit. Other channel statistics belong to fewer rows."""
    stored = dict(contents.stored)
    for name in (name for name in stored if name.startswith("train/")):
        if name.endswith("_channels"):
            stored[name] = stored[name] + np.float32(11 - n)
        else:
            stored[name] = stored[name][:n] if name.endswith("labels") else stored[name][:, :n]
    splits = contents.manifest.splits | {"train": replace(contents.manifest.splits["train"], n_images=n, limit=limit)}
    return replace(contents, manifest=replace(contents.manifest, splits=splits), stored=stored)


KINDS = {"float16": ALL, "int8": sorted([*ALL, "patch_scale", "prefix_scale"])}


def copy_of(path: Path, target: Path) -> Path:
    """Copy a store with hard links: a file written in the copy becomes separate from the original."""
    shutil.copytree(path.parent, target.parent, dirs_exist_ok=True, copy_function=link_or_copy)
    return target


def link_or_copy(source: str, target: str) -> None:
    if Path(source).name in ("journal.jsonl", ".lock"):
        shutil.copy2(source, target)
    else:
        Path(target).hardlink_to(source)
