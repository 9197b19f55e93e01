"""Choice of rows: unreadable images, and splits that are refused."""

import csv
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tokenprobe.errors import InputError, LockedError, NoSpaceError, StoreError
from tokenprobe.extract import extract
from tokenprobe.store import open_store
from tokenprobe.store.lock import StoreLock

from .kit import BAD, CountingSource, DiskUsage, MakeConfig, block_of, digests, finished


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_and_finished_blocks_stay(
    tiny_config: MakeConfig, broken_folder: Path, tmp_path: Path, workers: int
) -> None:
    config = tiny_config(data=f"folder:{broken_folder}", row_order="dataset", workers=workers)
    message = (
        rf"^cannot read image '{BAD}' of split 'train' in 'folder:.*/broken' \(\w+: .+\); "
        "give --skip-bad-images to leave it out and continue from here$"
    )
    with pytest.raises(InputError, match=message):
        extract(config)
    # Splits come by name: test is whole. Of train the blocks before the image's own, that of row 27.
    store = open_store(config.out)
    n_whole = {"test": store["test"].info.n_blocks, "train": 27 // store["train"].info.block_rows}
    done = {(split, int(block)) for split, _, block in map(block_of, finished(tmp_path / "tiny.zarr"))}
    assert n_whole["train"] > 0
    assert done == {(split, block) for split, n_blocks in n_whole.items() for block in range(n_blocks)}


def test_an_image_mended_in_place_lets_the_same_command_continue(
    tiny_config: MakeConfig, image_folder: Path, broken_folder: Path
) -> None:
    file = broken_folder / "train" / BAD
    good = (image_folder / "train" / BAD).read_bytes()
    file.write_bytes(bytes(len(good)))
    config = tiny_config(data=f"folder:{broken_folder}", row_order="dataset", layers="0")
    with pytest.raises(InputError, match=BAD):
        extract(config)
    kept = finished(Path(config.out))
    file.write_bytes(good)
    out = Path(extract(config))
    assert kept < finished(out)
    assert open_store(out).manifest.complete


@pytest.mark.usefixtures("messages")
def test_skipped_images_are_left_out_and_recorded(
    tiny_config: MakeConfig, broken_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(data=f"folder:{broken_folder}", skip_bad_images=True)
    store = open_store(extract(config))
    assert f"left out train/{BAD}: " in capsys.readouterr().err
    assert store.manifest.splits["train"].skipped == [BAD]
    assert store.manifest.splits["test"].skipped == []
    (broken_folder / "train" / BAD).unlink()
    without = open_store(extract(tiny_config(data=f"folder:{broken_folder}", out=tmp_path / "without.zarr")))
    assert len(store["train"]) == len(without["train"]) == 59
    chunks = [{k: v for k, v in digests(s.path).items() if "/c." in k} for s in (store, without)]
    assert chunks[0] == chunks[1]


def test_with_the_flag_again_a_store_with_skipped_images_is_extended(
    tiny_config: MakeConfig, broken_folder: Path, tmp_path: Path
) -> None:
    config = {"data": f"folder:{broken_folder}", "skip_bad_images": True}
    whole = digests(extract(tiny_config(**config, out=tmp_path / "whole.zarr")))
    extract(tiny_config(**config, layers="1"))
    assert digests(extract(tiny_config(**config))) == whole


def test_without_the_flag_a_store_with_skipped_images_is_refused(tiny_config: MakeConfig, broken_folder: Path) -> None:
    extract(tiny_config(data=f"folder:{broken_folder}", skip_bad_images=True))
    with pytest.raises(StoreError, match=rf"train\.skipped: stored \['{BAD}'\], asked \[\].*--overwrite"):
        extract(tiny_config(data=f"folder:{broken_folder}"))


@pytest.mark.parametrize("row_order", ["dataset", "shuffled"])
def test_the_flag_given_after_the_failure_goes_on_and_keeps_the_blocks_before_it(
    tiny_config: MakeConfig, broken_folder: Path, tmp_path: Path, row_order: str
) -> None:
    """Blocks stay in place: with 56 images they have 7 each; with 55 they would have 6."""
    for index in range(16, 20):
        (broken_folder / "train" / "cat" / f"{index}.png").unlink()
    config = {"data": f"folder:{broken_folder}", "row_order": row_order, "batch_size": 2}
    whole = digests(extract(tiny_config(**config, skip_bad_images=True, out=tmp_path / "whole.zarr")))
    with pytest.raises(InputError, match="give --skip-bad-images"):
        extract(tiny_config(**config))
    out = Path(tiny_config().out)
    kept = {file: (out / file).stat().st_mtime_ns for file in finished(out)}
    assert any(file.startswith("train/") for file in kept)
    assert digests(extract(tiny_config(**config, skip_bad_images=True))) == whole
    assert {file: (out / file).stat().st_mtime_ns for file in kept} == kept


def test_under_a_limit_another_image_takes_the_place_of_a_bad_one(
    tiny_config: MakeConfig, broken_folder: Path, tmp_path: Path
) -> None:
    """The number of rows stays the same, but their images change: labels and ids must follow."""
    config = {"data": f"folder:{broken_folder}", "limit": 50, "split": ["train"], "batch_size": 2}
    whole = extract(tiny_config(**config, skip_bad_images=True, out=tmp_path / "whole.zarr"))
    assert len(open_store(whole)["train"]) == 50
    for seed in range(20):  # a seed whose 50 images include the bad one
        rows = tiny_config(**config, seed=seed, out=tmp_path / f"{seed}.zarr")
        try:
            extract(rows)
        except InputError:
            break
    repaired = extract(replace(rows, skip_bad_images=True))
    fresh = extract(replace(rows, skip_bad_images=True, out=tmp_path / "fresh.zarr"))
    assert digests(repaired) == digests(fresh)
    assert BAD not in open_store(repaired)["train"].ids
    assert len(open_store(repaired)["train"]) == 50


def test_the_flag_with_overwrite_looks_again(tiny_config: MakeConfig, broken_folder: Path) -> None:
    with pytest.raises(InputError, match="give --skip-bad-images"):
        extract(tiny_config(data=f"folder:{broken_folder}"))
    out = Path(extract(tiny_config(data=f"folder:{broken_folder}", skip_bad_images=True, overwrite=True)))
    assert open_store(out).manifest.splits["train"].skipped == [BAD]


def test_a_split_of_bad_images_alone_has_none(tiny_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "images" / "ant").mkdir(parents=True)
    (tmp_path / "images" / "ant" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"^split 'train' of '.*images' has no readable images$"):
        extract(tiny_config(data=str(tmp_path / "images"), skip_bad_images=True))


def test_views_of_splits_that_are_not_for_training_are_refused(tiny_config: MakeConfig, tmp_path: Path) -> None:
    message = (
        r"^--views 2 needs a split whose name begins with 'train', and there are only test; "
        "other splits have view 0 alone, so extract them with --views 1$"
    )
    with pytest.raises(InputError, match=message):
        extract(tiny_config(views=2, split=["test"]))
    assert not (tmp_path / "tiny.zarr").exists()


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_complete_store_is_not_searched_for_bad_images_again(
    tiny_config: MakeConfig,
    image_folder: Path,
    broken_folder: Path,
    sources: list[CountingSource],
    is_broken: bool,
) -> None:
    """The first run decodes 84 images to check them; each run decodes the readable images that it extracts."""
    n_readable = 83 if is_broken else 84
    config = {"data": f"folder:{broken_folder if is_broken else image_folder}", "skip_bad_images": True}
    for layers in ("1", "1", "all"):
        extract(tiny_config(**config, layers=layers))
    assert [source.n_loads for source in sources] == [84 + n_readable, 0, n_readable]


NAMES = {
    "../../x": "holds a path separator",
    "a/b": "holds a path separator",
    "/abs": "holds a path separator",
    "..": "begins with '.'",
    "": "is empty",
    "journal.jsonl": "is reserved for files of the store",
    "a\nb": "holds control characters",
}
"""Forbidden names of splits, with reasons."""


def write_npz(folder: Path, name: str) -> str:
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", name):
        arrays |= {f"x_{split}": np.zeros((2, 16, 16), np.uint8), f"y_{split}": np.array([0, 1])}
    np.savez(folder / "a.npz", **arrays)  # type: ignore[arg-type]
    return f"npz:{folder}/a.npz"


def write_csv(folder: Path, name: str) -> str:
    Image.new("RGB", (16, 16)).save(folder / "0.png")
    with open(folder / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), ("0.png", "0", "train"), ("0.png", "0", name)])
    return f"csv:{folder}/t.csv"


@pytest.mark.parametrize("out", ["s.h5", "s.zarr"])
@pytest.mark.parametrize("write", [write_npz, write_csv], ids=["npz", "csv"])
@pytest.mark.parametrize("name", NAMES)
def test_a_split_name_that_leads_elsewhere_is_refused(
    tiny_config: MakeConfig, tmp_path: Path, write: Callable[[Path, str], str], name: str, out: str
) -> None:
    """Nothing is written, neither at the store's path nor at the path in the name."""
    data, place = tmp_path / "data", tmp_path / "a" / "b"
    data.mkdir()
    place.mkdir(parents=True)
    spec = write(data, name)
    message = (
        rf"^'.*': split name {re.escape(repr(name))} {re.escape(NAMES[name])}.*, or name others with --split to leave"
    )
    with pytest.raises(InputError, match=message):
        extract(tiny_config(data=spec, out=place / out))
    assert [path for path in tmp_path.rglob("*") if data not in (path, path.parent)] == [tmp_path / "a", place]
    extract(tiny_config(data=spec, out=place / out, split=["train"], layers="0"))


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "row_order": ({"row_order": "dataset"}, r"row_order\.kind: stored 'shuffled', asked 'dataset'"),
    "dtype": ({"dtype": "float32"}, "dtype: stored 'float16', asked 'float32'"),
    "limit": ({"limit": 10}, r"train\.limit: stored None, asked \{'n': 10"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_does_not_fit_the_store_is_refused_before_every_image_is_decoded(
    tiny_config: MakeConfig, broken_folder: Path, sources: list[CountingSource], change: str
) -> None:
    config = {"data": f"folder:{broken_folder}", "split": ["test"]}
    extract(tiny_config(**config, layers="0"))
    config["split"] = ["train", "test"]
    with pytest.raises(InputError, match=BAD):
        extract(tiny_config(**config))
    changes, message = CHANGES[change]
    with pytest.raises(StoreError, match=message):
        extract(tiny_config(**config, skip_bad_images=True, **changes))
    assert sources[-1].n_loads == 0
    extract(tiny_config(**config, skip_bad_images=True))


def test_a_store_that_is_being_written_is_refused_before_every_image_is_decoded(
    tiny_config: MakeConfig, sources: list[CountingSource]
) -> None:
    out = Path(extract(tiny_config(split=["test"])))
    with StoreLock(out), pytest.raises(LockedError, match="is being written by process"):
        extract(tiny_config(skip_bad_images=True))
    assert sources[-1].n_loads == 0


def test_a_full_disk_is_noticed_before_every_image_is_decoded(
    tiny_config: MakeConfig, sources: list[CountingSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**6, 0, 1))
    with pytest.raises(NoSpaceError, match="the store needs"):
        extract(tiny_config(skip_bad_images=True))
    assert sources[-1].n_loads == 0


@pytest.mark.usefixtures("messages")
def test_looking_for_unreadable_images_shows_how_far_it_is(
    tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(tiny_config(skip_bad_images=True))
    said = capsys.readouterr().err
    assert "check 60/60 images  " in said and "check 24/24 images  " in said
