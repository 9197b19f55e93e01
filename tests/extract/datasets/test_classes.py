"""Class indices and names from labels of any kind."""

import numpy as np
import pytest

from tokenprobe.errors import InputError
from tokenprobe.extract.datasets.classes import index_class_sets, index_classes, one_hot


def test_names_are_sorted_over_all_splits() -> None:
    labels, classes = index_classes({"train": ["dog", "ant"], "test": ["bee", "dog"]}, "here")
    assert classes == ["ant", "bee", "dog"]
    assert {split: values.tolist() for split, values in labels.items()} == {"train": [2, 0], "test": [1, 2]}
    assert labels["train"].dtype == np.int64


@pytest.mark.parametrize("values", [[3, 0, 3], ["3", "0", "3"], ["3", "00", 3]])
def test_integers_are_indices_and_stay_what_they_are(values: list[int | str]) -> None:
    labels, classes = index_classes({"train": values}, "here")
    assert labels["train"].tolist() == [3, 0, 3]
    assert classes == ["0", "1", "2", "3"]


def test_one_text_makes_all_of_them_names() -> None:
    labels, classes = index_classes({"train": ["10", "9", "x"]}, "here")
    assert classes == ["10", "9", "x"]
    assert labels["train"].tolist() == [0, 1, 2]


def test_no_images_have_no_classes() -> None:
    labels, classes = index_classes({"train": []}, "here")
    assert (labels["train"].shape, classes) == ((0,), [])


@pytest.mark.parametrize("value", [-1, "-1", 10**6])
def test_an_integer_that_is_no_index_is_refused(value: int | str) -> None:
    with pytest.raises(InputError, match=rf"^label {value} in 'a.csv': integers are class indices, from 0 to 999999$"):
        index_classes({"train": [0, value]}, "'a.csv'")


def test_sets_of_names_are_columns_of_zeros_and_ones() -> None:
    labels, classes = index_class_sets({"train": [["dog", "ant"], []], "test": [["bee", "bee"]]}, "here")
    assert classes == ["ant", "bee", "dog"]
    assert labels["train"].tolist() == [[1, 0, 1], [0, 0, 0]]
    assert labels["test"].tolist() == [[0, 1, 0]]
    assert labels["train"].dtype == np.int64


def test_sets_of_integers_are_columns_by_index() -> None:
    labels, classes = index_class_sets({"train": [["2"], ["0", "2"]]}, "here")
    assert classes == ["0", "1", "2"]
    assert labels["train"].tolist() == [[0, 0, 1], [1, 0, 1]]


def test_one_hot_keeps_classes_that_no_image_has() -> None:
    assert one_hot([[1], []], 3).tolist() == [[0, 1, 0], [0, 0, 0]]
    assert one_hot([], 2).shape == (0, 2)
