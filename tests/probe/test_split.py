"""The held-out part against counting per class."""

import numpy as np
import pytest

from tokenprobe.errors import InputError
from tokenprobe.probe.split import hold_out

SIZES = [2, 3, 9, 10, 11, 40, 101]
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(len(SIZES)), SIZES))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 0.5, 0.9, 0.999])
def test_each_class_gives_its_part_but_neither_all_nor_nothing(fraction: float) -> None:
    train, val = hold_out(LABELS, fraction, seed=0)
    assert sorted([*train, *val]) == list(range(len(LABELS)))
    assert list(train) == sorted(train) and list(val) == sorted(val)
    for label, size in enumerate(SIZES):
        held = int((LABELS[val] == label).sum())
        assert 1 <= held <= size - 1
        assert abs(held - size * fraction) <= 0.5 or held in (1, size - 1)


def test_the_choice_is_a_function_of_the_seed() -> None:
    first, again, other = (hold_out(LABELS, 0.2, seed)[1] for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_image_of_a_class_is_held_out_about_as_often() -> None:
    labels = np.zeros(20, dtype=np.int64)
    times = np.bincount(np.concatenate([hold_out(labels, 0.25, seed)[1] for seed in range(400)]), minlength=20)
    assert times.sum() == 5 * 400
    assert np.abs(times - 100).max() < 5 * np.sqrt(400 * 0.25 * 0.75)  # five binomial standard deviations


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(InputError, match=f"val {fraction}: expected a fraction between 0 and 1"):
        hold_out(LABELS, fraction, 0)


def test_a_class_of_one_image_is_named() -> None:
    with pytest.raises(InputError, match="class 7 has one training image; a validation split needs two or more"):
        hold_out(np.array([0, 7, 0, 3, 3]), 0.1, 0)
