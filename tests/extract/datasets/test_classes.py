"""Class indices and names from labels of any kind."""

import numpy as np
import pytest

from tokenprobe.errors import InputError
from tokenprobe.extract.datasets.classes import check_labelled, class_name, index_class_sets, index_classes, one_hot


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


@pytest.mark.parametrize("value", [-2, "-2", 10**6, "1" + "0" * 18, -(10**6)])
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
    assert one_hot([[1], []], 3, "here").tolist() == [[0, 1, 0], [0, 0, 0]]
    assert one_hot([], 2, "here").shape == (0, 2)


def test_a_number_of_any_length_is_no_traceback() -> None:
    with pytest.raises(InputError, match=r"^label 7{40} in here: integers are class indices"):
        index_classes({"train": ["7" * 5000]}, "here")


def test_none_an_empty_text_and_minus_one_are_no_label() -> None:
    for nothing in (None, "", " \n", "\ufeff", -1, "-1"):
        labels, classes = index_classes({"train": ["dog", nothing, "ant"]}, "here")
        assert (labels["train"].tolist(), classes) == ([1, -1, 0], ["ant", "dog"])
    labels, classes = index_classes({"train": [1, -1, 0], "test": [None, None]}, "here")
    assert ({split: of.tolist() for split, of in labels.items()}, classes) == (
        {"train": [1, -1, 0], "test": [-1, -1]},
        ["0", "1"],
    )


def test_texts_that_look_alike_are_one_class() -> None:
    values = {"train": ["caf\u00e9", "ant"], "test": ["\ufeffcafe\u0301", " ant\r\n"]}
    labels, classes = index_classes(values, "here")
    assert classes == ["ant", "caf\u00e9"]
    assert labels["train"].tolist() == labels["test"].tolist() == [1, 0]
    assert class_name("\ufeff a  b\t") == "a  b"


def test_images_without_a_label_are_counted() -> None:
    message = (
        r"^2 of 3 images in split 'test' of 'a.csv' have no label, or the label -1 \(class indices count from 0\); "
        "name other splits with --split to leave it out$"
    )
    with pytest.raises(InputError, match=message):
        check_labelled(np.array([-1, 0, -1]), "test", "'a.csv'")
    for labels in (np.array([0, 1]), np.zeros((0,), np.int64), np.zeros((2, 0), np.int64), np.array([[0, 1]])):
        check_labelled(labels, "test", "'a.csv'")


def test_a_set_with_an_empty_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"^here holds \['dog', ' '\]; expected class names or indices, none of them"):
        index_class_sets({"train": [["dog"], ["dog", " "]]}, "here")


def test_a_table_of_sparse_indices_that_would_not_fit_is_refused() -> None:
    message = r"^here: a table of 5,000 images × 900,001 classes takes 36 GB; class indices count from 0: "
    with pytest.raises(InputError, match=message):
        index_class_sets({"train": [["900000"]] * 5000}, "here")
