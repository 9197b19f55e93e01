"""Warnings about splits without common classes, and about class lists that are mostly unused."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tokenprobe.extract import extract
from tokenprobe.extract.odd_classes import classes_of, odd_classes
from tokenprobe.store import open_store

from .kit import MakeConfig

ANIMALS = ["ant", "bee", "cat", "dog", "eel"]


def lines(classes: list[str], **labels: Sequence[int | list[int]]) -> list[str]:
    of_splits = {split: np.array(values, dtype=np.int64) for split, values in labels.items()}
    return odd_classes(of_splits, of_splits, classes)


def test_splits_that_share_no_class_are_named_with_theirs() -> None:
    assert lines(ANIMALS, test=[4], train=[0, 1, 2, 3, 0], val=[4, 4]) == [
        "splits 'test' and 'train' share no class, so heads trained on one cannot be tested on the other: "
        "test has 'eel'; train has 'ant', 'bee', 'cat', … (4 in all)",
        "splits 'train' and 'val' share no class, so heads trained on one cannot be tested on the other: "
        "train has 'ant', 'bee', 'cat', … (4 in all); val has 'eel'",
    ]


def test_splits_that_share_one_class_are_no_matter() -> None:
    assert lines(ANIMALS, train=[0, 1, 2], test=[2, 3, 4]) == []


def test_sets_of_classes_count_too() -> None:
    assert lines(["ant", "bee"], train=[[1, 0], [0, 0]], test=[[0, 1]])[0].startswith("splits 'train' and 'test' share")
    assert lines(["ant", "bee"], train=[[1, 0], [0, 1]], test=[[0, 0]]) == []


def test_only_the_images_that_become_rows_share_classes() -> None:
    listed, chosen = {"a": np.array([0, 1]), "b": np.array([1, 0])}, {"a": np.array([0]), "b": np.array([1])}
    assert len(odd_classes(listed, chosen, ["ant", "bee"])) == 1


def test_sparse_indices_say_why_the_heads_are_large() -> None:
    assert lines([str(label) for label in range(300_001)], train=[3, 7, 300_000], test=[3]) == [
        "labels are class indices up to 300000, but only 3 occur, and every head has 300,001 outputs; number the "
        "classes from 0 without gaps, or use names as labels"
    ]


def test_names_without_images_are_named() -> None:
    assert lines([*ANIMALS, "fox"], train=[0, 1], test=[0]) == [
        "only 2 of 6 classes have images, and every head has 6 outputs; classes without images: 'cat', 'dog', 'eel', … "
        "(4 in all)"
    ]
    assert lines(ANIMALS, train=[0, 1, 2]) == lines([], train=[[], []]) == []


def test_classes_of_either_form() -> None:
    assert classes_of(np.array([3, 0, 3])).tolist() == [0, 3]
    assert classes_of(np.array([[0, 1, 0], [0, 1, 1]])).tolist() == [1, 2]


@pytest.mark.usefixtures("messages")
def test_an_extraction_says_so_before_it_starts(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tiny ImageNet as distributed: val/images/ holds all validation images and becomes a class."""
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16)).astype(np.uint8)
    np.savez(
        tmp_path / "a.npz",
        x_train=images, y_train=np.array(["n01", "n02"] * 3), x_val=images[:2], y_val=np.array(["images"] * 2),
    )  # fmt: skip
    open_store(extract(tiny_config(data=f"npz:{tmp_path}/a.npz", layers="0")))
    assert "splits 'train' and 'val' share no class, so heads" in capsys.readouterr().err
