"""Labels of the `datasets` package with a different list of classes per split, against names by hand."""

import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from tokenprobe.errors import InputError
from tokenprobe.extract.datasets import open_dataset
from tokenprobe.extract.datasets.hf_labels import LabelColumn, index_columns

Column = tuple[Any, list[Any]]


@pytest.fixture(autouse=True)
def quiet() -> None:
    datasets.disable_progress_bars()


def save(folder: Path, **splits: Column) -> str:
    """Save a data set whose splits have label columns of different types; return its spec."""
    made = {}
    for split, (feature, values) in splits.items():
        rows = {"image": [{"bytes": b"x", "path": None}] * len(values), "label": values}
        made[split] = Dataset.from_dict(rows, features=Features({"image": datasets.Image(), "label": feature}))
    DatasetDict(made).save_to_disk(folder / "saved")
    return f"hf:{folder}/saved?label=label"


def names_of(source: Any, split: str) -> list[str]:
    return [source.classes[label] for label in source.images(split).labels]


def test_labels_go_by_the_names_of_their_own_split(tmp_path: Path) -> None:
    """The same two names, in another order in test: index 0 is an ant in one, a bee in the other."""
    spec = save(
        tmp_path,
        train=(ClassLabel(names=["bee", "ant"]), [0, 1, 1]),
        test=(ClassLabel(names=["ant", "bee"]), [0, 1, 1]),
    )
    source = open_dataset(spec)
    assert source.classes == ["bee", "ant"], "in the order of the training split"
    assert names_of(source, "train") == ["bee", "ant", "ant"]
    assert names_of(source, "test") == ["ant", "bee", "bee"]


def test_a_split_may_lack_classes_and_have_others(tmp_path: Path) -> None:
    spec = save(
        tmp_path,
        a=(ClassLabel(names=["dog"]), [0]),
        train=(ClassLabel(names=["ant", "bee", "cat"]), [2, 0]),
        val=(ClassLabel(names=["cat", "eel"]), [0, 1]),
    )
    source = open_dataset(spec)
    assert source.classes == ["ant", "bee", "cat", "dog", "eel"]
    assert [names_of(source, split) for split in ("a", "train", "val")] == [["dog"], ["cat", "ant"], ["cat", "eel"]]


def test_lists_of_labels_go_by_the_names_of_their_own_split(tmp_path: Path) -> None:
    spec = save(
        tmp_path,
        train=(List(ClassLabel(names=["ant", "bee"])), [[0], [0, 1], []]),
        test=(List(ClassLabel(names=["cat", "ant"])), [[0], [1]]),
    )
    source = open_dataset(spec)
    assert source.classes == ["ant", "bee", "cat"]
    assert source.images("train").labels.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert source.images("test").labels.tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize("feature", [Value("int64"), ClassLabel(names=["ant", "bee"])])
def test_lists_of_one_label_are_that_label(tmp_path: Path, feature: Any) -> None:
    """A column of shape (n, 1) does not mean several classes per image."""
    source = open_dataset(save(tmp_path, train=(List(feature, length=1), [[1], [0], [1]])))
    assert source.images("train").labels.tolist() == [1, 0, 1]
    assert len(source.classes) == 2


def test_a_split_without_the_column_is_left_out_by_naming_others(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"image": [{"bytes": b"x", "path": None}]}, features=Features({"image": datasets.Image()}))
    labels = Features({"image": datasets.Image(), "label": ClassLabel(names=["ant"])})
    labelled = Dataset.from_dict({"image": [{"bytes": b"x", "path": None}], "label": [0]}, features=labels)
    DatasetDict({"a": rows, "train": labelled}).save_to_disk(tmp_path / "saved")
    source = open_dataset(f"hf:{tmp_path}/saved")
    assert source.images("train").labels.tolist() == [0]
    message = r"^split 'a' of 'hf:.*' lacks one of the columns image and label; name other splits with --split to "
    with pytest.raises(InputError, match=message):
        source.images("a")


def test_splits_of_different_kinds_of_label_are_refused(tmp_path: Path) -> None:
    spec = save(tmp_path, train=(ClassLabel(names=["ant"]), [0]), test=(Value("string"), ["ant"]))
    message = (
        r"^column 'label' of 'hf:.*' holds plain values in 'test', named classes in 'train'; save all splits with the "
        "same type of label$"
    )
    with pytest.raises(InputError, match=message):
        open_dataset(spec)


@pytest.mark.parametrize("value", [3, -2, "ant", [0]])
def test_an_index_that_no_name_has_is_refused(value: Any) -> None:
    """The package checks labels when it writes, not when it reads: a Parquet file may hold any integer."""
    column = LabelColumn(ClassLabel(names=["ant", "bee", "cat"]), [0, value])
    with pytest.raises(InputError, match=rf"^here holds {re.escape(repr(value))}; expected class indices below 3$"):
        index_columns({"train": column}, "here")


def test_none_is_no_label() -> None:
    column = LabelColumn(ClassLabel(names=["ant", "bee"]), [1, None, -1])
    labels, classes = index_columns({"train": column}, "here")
    np.testing.assert_array_equal(labels["train"], np.array([1, -1, -1]), strict=True)
    assert classes == ["ant", "bee"]
