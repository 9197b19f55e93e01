"""Classes that training lacks, against counting by hand."""

import numpy as np
import pytest

from tokenprobe.probe.batches.lacking import describe_lacking, lacking_classes

NAMES = ["ant", "bee", "cat", "dog"]
TEST, HELD = np.array([0, 1, 1, 2, 3, 3]), np.array([0, 2, 2, 1])


def several(*rows: str) -> np.ndarray:
    """Return labels (n, 4) from rows such as "0110"."""
    return np.array([[int(value) for value in row] for row in rows])


def test_the_classes_that_no_image_shows_are_found() -> None:
    assert lacking_classes(np.array([3, 0, 3]), 5) == [1, 2, 4]
    assert lacking_classes(several("0110", "0100"), 4) == [0, 3]


def test_nothing_is_said_where_training_has_every_class() -> None:
    assert describe_lacking(np.array([3, 2, 1, 0]), {"test": TEST}, NAMES) is None
    assert describe_lacking(several("1100", "0011"), {"test": several("1111")}, NAMES) is None


@pytest.mark.parametrize(
    ("train", "scored", "expected"),
    [
        (
            [0, 0, 1],
            {"test": TEST, "held-out": HELD},
            "2 of 4 classes have no training image ('cat', 'dog'): 3 of 6 test images and 2 of 4 held-out images are "
            "of them, which no head can learn, and count as errors",
        ),
        (
            [0, 1, 2],
            {"test": TEST, "held-out": HELD},
            "1 of 4 classes has no training image ('dog'): 2 of 6 test images are of it, which no head can learn, and "
            "count as errors",
        ),
        (
            [1, 2, 3],
            {"test": np.array([1, 2]), "held-out": np.array([], dtype=np.int64)},
            "1 of 4 classes has no training image ('ant'), and no scored image is of it",
        ),
    ],
)
def test_images_of_classes_that_training_lacks_are_counted(
    train: list[int], scored: dict[str, np.ndarray], expected: str
) -> None:
    assert describe_lacking(np.array(train), scored, NAMES) == expected


def test_images_that_show_several_classes_count_once() -> None:
    scored = {"test": several("0011", "0110", "1000"), "held-out": several("1000")}
    assert describe_lacking(several("1100"), scored, NAMES) == (
        "2 of 4 classes have no training image ('cat', 'dog'): 2 of 3 test images show them, which no head can learn, "
        "and are ranked by chance"
    )


def test_of_many_classes_five_are_named_and_odd_names_are_escaped() -> None:
    line = describe_lacking(np.array([0]), {"test": np.array([0])}, ["a", "\x1b[2J", *"bcdefg"])
    assert line is not None
    assert "7 of 8 classes have no training image ('\\x1b[2J', 'b', 'c', 'd', 'e' and 2 more)" in line
