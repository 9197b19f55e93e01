"""Held-out parts and subsets against counting per class."""

from collections import Counter

import numpy as np
import pytest

from tokenprobe.errors import InputError
from tokenprobe.probe.batches.subsets import at_most_as_many, folds_of, hold_out, is_fraction, parse_shots, subset

SIZES = [2, 3, 9, 10, 11, 40, 101]
NAMES = [f"class {label}" for label in range(len(SIZES))]
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(len(SIZES)), SIZES))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 0.5, 0.9, 0.999])
def test_each_class_gives_its_part_but_neither_all_nor_nothing(fraction: float) -> None:
    train, val = hold_out(LABELS, fraction, 0, NAMES)
    assert sorted([*train, *val]) == list(range(len(LABELS)))
    assert list(train) == sorted(train) and list(val) == sorted(val)
    for label, size in enumerate(SIZES):
        held = int((LABELS[val] == label).sum())
        assert 1 <= held <= size - 1
        assert abs(held - size * fraction) <= 0.5 or held in (1, size - 1)


def test_the_choice_is_a_function_of_the_seed() -> None:
    first, again, other = (hold_out(LABELS, 0.2, seed, NAMES)[1] for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_image_of_a_class_is_held_out_about_as_often() -> None:
    labels = np.zeros(20, dtype=np.int64)
    times = np.bincount(np.concatenate([hold_out(labels, 0.25, seed, ["a"])[1] for seed in range(400)]), minlength=20)
    assert times.sum() == 5 * 400
    assert np.abs(times - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)  # five binomial standard deviations


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(InputError, match=f"val {fraction}: expected a fraction between 0 and 1"):
        hold_out(LABELS, fraction, 0, NAMES)


def test_a_class_of_one_image_is_named() -> None:
    message = "class 'bee' has one training image, .*; give --val-split, or --protocol paper"
    with pytest.raises(InputError, match=message):
        hold_out(np.array([0, 2, 0, 3, 3]), 0.1, 0, ["ant", "absent", "bee", "cat"])


def drawn(shots: str, seed: int = 0, rows: np.ndarray | None = None) -> set[int]:
    found = subset(LABELS, np.arange(len(LABELS)) if rows is None else rows, shots, seed, NAMES)
    assert list(found) == sorted(found)
    return set(found.tolist())


def test_a_subset_has_as_many_of_each_class_as_were_asked_for() -> None:
    assert Counter(LABELS[list(drawn("2"))].tolist()) == dict.fromkeys(range(len(SIZES)), 2)
    counts = Counter(LABELS[list(drawn("0.1"))].tolist())
    assert counts == {label: max(1, round(0.1 * size)) for label, size in enumerate(SIZES)}
    assert drawn("full") == set(range(len(LABELS)))


def test_small_subsets_lie_inside_larger_ones() -> None:
    """Shots and fractions of one seed are beginnings of one order of each class."""
    one, two, tenth, half = drawn("1"), drawn("2"), drawn("0.1"), drawn("0.5")
    assert one < two and one <= tenth < half
    assert {row for row in two if SIZES[LABELS[row]] >= 10} < half


def test_subsets_are_seeded_and_draw_only_from_the_rows_given() -> None:
    assert drawn("2", seed=1) == drawn("2", seed=1) != drawn("2", seed=2)
    train, val = hold_out(LABELS, 0.3, 1, NAMES)
    assert not drawn("1", seed=1, rows=train) & set(val.tolist())


def test_every_image_of_a_class_is_drawn_about_as_often() -> None:
    labels, rows = np.zeros(20, dtype=np.int64), np.arange(20)
    times = np.bincount(np.concatenate([subset(labels, rows, "5", seed, ["a"]) for seed in range(400)]), minlength=20)
    assert np.abs(times - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)


def test_what_is_held_out_says_nothing_of_what_is_drawn() -> None:
    """The same seed for both: of the images held out, about as many are drawn as of the others."""
    labels, rows = np.zeros(100, dtype=np.int64), np.arange(100)
    names, seeds = ["a"], range(200)
    pairs = [(hold_out(labels, 0.5, s, names)[1], subset(labels, rows, "50", s, names)) for s in seeds]
    both = [len(np.intersect1d(held, drawn)) for held, drawn in pairs]
    assert abs(np.mean(both) - 25) < 5 * 2.5 / np.sqrt(200)  # a hypergeometric deviation is 2.5


def test_validation_has_at_most_as_many_of_a_class_as_training() -> None:
    train, val = hold_out(LABELS, 0.5, 0, NAMES)
    few = subset(LABELS, train, "1", 3, NAMES)
    held = at_most_as_many(LABELS, val, LABELS[few], seed=0)
    assert Counter(LABELS[held].tolist()) == dict.fromkeys(range(len(SIZES)), 1)
    more = at_most_as_many(LABELS, val, LABELS[LABELS == 6], seed=0)
    assert set(more.tolist()) == {row for row in val.tolist() if LABELS[row] == 6}
    assert set(held.tolist()) <= set(val.tolist())


@pytest.mark.parametrize("most", [2, 5, 200])
def test_folds_are_stratified_and_no_fold_has_all_of_a_class(most: int) -> None:
    labels = np.append(LABELS, len(SIZES))  # and a class with one image
    folds = folds_of(labels, most)
    assert set(folds[:-1]) == set(range(min(most, max(SIZES)))) and folds[-1] == -1
    for label, size in enumerate(SIZES):
        counts = np.bincount(folds[labels == label], minlength=min(most, max(SIZES)))
        assert counts.max() - counts.min() <= 1 and counts.max() < size


def test_folds_of_images_with_one_per_class_and_with_several_labels() -> None:
    assert folds_of(np.arange(4), 5).tolist() == [-1] * 4
    assert sorted(folds_of(np.eye(7, dtype=np.int64), 3).tolist()) == [0, 0, 0, 1, 1, 2, 2]


def test_a_class_with_too_few_images_is_named() -> None:
    message = (
        "shots 10: class 'class 0' has 2 images to train on, and 2 other classes have too few; ask for fewer --sho"
    )
    with pytest.raises(InputError, match=message):
        drawn("10")
    with pytest.raises(InputError, match="class 'b' has 1 image to train on; ask for fewer --shots"):
        subset(np.array([0, 1, 0]), np.arange(3), "2", 0, ["a", "b"])


@pytest.mark.parametrize("shots", ["1", "3", "0.5"])
def test_of_a_class_without_training_images_none_is_drawn(shots: str) -> None:
    """Labels that are counted from 1 leave class 0 without any; so does a class that other splits alone have."""
    labels = 1 + np.arange(12) % 3
    rows = subset(labels, np.arange(12), shots, 0, ["0", "1", "2", "3", "4"])
    assert Counter(labels[rows].tolist()) == dict.fromkeys([1, 2, 3], {"1": 1, "3": 3, "0.5": 2}[shots])


MANY = (np.random.default_rng(1).random((60, 4)) < 0.3).astype(np.int64)


def test_images_with_several_labels_are_divided_without_regard_to_them() -> None:
    train, val = hold_out(MANY, 0.25, 0, list("abcd"))
    assert (len(train), len(val)) == (45, 15) and sorted([*train, *val]) == list(range(60))
    assert [len(rows) for rows in hold_out(MANY[:1], 0.25, 0, list("abcd"))] == [0, 1]  # no class is to blame
    assert len(subset(MANY, train, "0.2", 0, list("abcd"))) == 9
    assert len(at_most_as_many(MANY, val, MANY[:4], 0)) == 4
    with pytest.raises(
        InputError, match="images have several labels, so there are no 4 images per class; give --fraction"
    ):
        subset(MANY, train, "4", 0, list("abcd"))


def test_subsets_are_named_as_the_results_name_them() -> None:
    assert parse_shots([], []) == ["full"]
    assert parse_shots(["full", "16", "04", "4"], []) == ["full", "16", "4"]
    assert parse_shots([], [0.1, 0.01]) == ["0.1", "0.01"]
    assert parse_shots(["1"], [0.5]) == ["1", "0.5"]
    assert [is_fraction(shots) for shots in parse_shots(["full", "10"], [0.1, 1e-5])] == [False, False, True, True]


@pytest.mark.parametrize("shots", ["0", "-1", "all", "1.5", "", "²"])
def test_shots_are_full_or_a_number(shots: str) -> None:
    with pytest.raises(InputError, match=f"shots {shots!r}: expected full, or a number of images per class, 1 or more"):
        parse_shots([shots], [])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_fractions_lie_between_0_and_1(fraction: float) -> None:
    with pytest.raises(InputError, match=rf"fraction {fraction}: expected a number between 0 and 1 \(for all, --shots"):
        parse_shots([], [fraction])
