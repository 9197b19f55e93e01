"""Labels as people write them: the same rules in every source that reads labels from files."""

import csv
import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from tokenprobe.errors import InputError
from tokenprobe.extract.datasets import open_dataset

Texts = Mapping[str, Sequence[str]]
"""One label per image, for each split."""


def write_csv(folder: Path, texts: Texts) -> str:
    rows = [(f"{split}{i}.png", text, split) for split, of in texts.items() for i, text in enumerate(of)]
    for name, *_ in rows:
        (folder / name).write_bytes(b"x")
    with open(folder / "t.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return f"csv:{folder}/t.csv"


def write_parquet(folder: Path, texts: Texts) -> str:
    write_csv(folder, texts)
    with open(folder / "t.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    columns = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    datasets.Dataset.from_dict(columns).to_parquet(folder / "t.parquet")
    return f"parquet:{folder}/t.parquet"


def write_tars(folder: Path, texts: Texts) -> str:
    for split, of_split in texts.items():
        with tarfile.open(folder / f"{split}.tar", "w") as tar:
            for index, text in enumerate(of_split):
                for member, content in ((f"{index}.png", b"x"), (f"{index}.cls", text.encode())):
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    others = "&".join(f"{split}={folder}/{split}.tar" for split in texts if split != "train")
    return f"wds:{folder}/train.tar?{others}"


def write_hf(folder: Path, texts: Texts) -> str:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    made = {}
    for split, of_split in texts.items():
        columns = {"image": [{"bytes": b"x", "path": None}] * len(of_split), "label": list(of_split)}
        made[split] = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(made).save_to_disk(folder / "saved")
    return f"hf:{folder}/saved?label=label"


def write_npz(folder: Path, texts: Texts) -> str:
    arrays: dict[str, Any] = {}
    for split, of_split in texts.items():
        arrays |= {f"x_{split}": np.zeros((len(of_split), 2, 2), np.uint8), f"y_{split}": np.array(of_split)}
    np.savez(folder / "a.npz", **arrays)
    return f"npz:{folder}/a.npz"


def write_folder(folder: Path, texts: Texts) -> str:
    for split, of_split in texts.items():
        for index, text in enumerate(of_split):
            (folder / split / text).mkdir(parents=True, exist_ok=True)
            (folder / split / text / f"{index}.png").write_bytes(b"x")
    return f"folder:{folder}"


WRITERS: dict[str, Callable[[Path, Texts], str]] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "wds": write_tars,
    "hf": write_hf,
    "npz": write_npz,
    "folder": write_folder,
}


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


def named(spec: str) -> dict[str, list[str]]:
    """Return the class name of each image, sorted within a split."""
    source = open_dataset(spec)
    return {split: sorted(source.classes[label] for label in source.images(split).labels) for split in source.splits}


@pytest.mark.parametrize("kind", WRITERS)
def test_accents_are_the_same_class_composed_or_not(kind: str, tmp_path: Path) -> None:
    """macOS separates e and its accent in folder names; most programs write one letter."""
    spec = WRITERS[kind](tmp_path, {"train": ["caf\u00e9", "ant"], "val": ["cafe\u0301", "ant"]})
    assert named(spec) == {"train": ["ant", "caf\u00e9"], "val": ["ant", "caf\u00e9"]}


@pytest.mark.parametrize("kind", WRITERS)
def test_blanks_and_a_byte_order_mark_do_not_count(kind: str, tmp_path: Path) -> None:
    spec = WRITERS[kind](tmp_path, {"train": ["dog", "ant "], "val": ["\ufeffdog", " ant"]})
    assert named(spec) == {"train": ["ant", "dog"], "val": ["ant", "dog"]}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_split_may_lack_classes_and_have_others(kind: str, tmp_path: Path) -> None:
    splits = {"test": ["eel"], "train": ["ant", "bee", "cat"], "val": ["cat", "dog"]}
    assert named(WRITERS[kind](tmp_path, splits)) == splits


@pytest.mark.parametrize("nothing", ["", "  ", "-1"])
@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind != "folder"])
def test_a_split_without_labels_is_left_out_by_naming_others(kind: str, nothing: str, tmp_path: Path) -> None:
    for labels in (["ant", "bee"], ["0", "1"]):
        source = open_dataset(WRITERS[kind](tmp_path, {"train": labels, "test": [nothing, labels[1]]}))
        assert source.images("train").labels.tolist() == [0, 1]
        with pytest.raises(InputError, match=r"^1 of 2 images in split 'test' of .* have no label, .* --split"):
            source.images("test")


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind != "folder"])
def test_an_index_stays_what_it_is_in_a_split_that_lacks_others(kind: str, tmp_path: Path) -> None:
    source = open_dataset(WRITERS[kind](tmp_path, {"train": ["0", "1", "2"], "test": ["2", "1"]}))
    assert source.classes == ["0", "1", "2"]
    assert source.images("test").labels.tolist() == [2, 1]
