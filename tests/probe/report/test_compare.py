"""Intervals against a bootstrap written out image by image, against McNemar's variance, and against scipy's."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from tokenprobe.probe.report.compare import DRAWS, SEED, Judged, bootstrap, difference, judge, own_interval

RNG = np.random.default_rng(5)
N = 400
LABELS = RNG.integers(0, 3, N)
IDS = np.array([f"image {number}" for number in range(N)])


def guesses(right: float, seed: int) -> np.ndarray:
    """Classes of which about `right` are right, the same images mostly for all seeds."""
    hard = np.random.default_rng(1).random(N) + 0.1 * np.random.default_rng(seed).random(N)
    return np.where(hard < 1.1 * right, LABELS, (LABELS + 1) % 3)


def judged(right: float, n_seeds: int = 1) -> Judged:
    found = judge(IDS, LABELS, [guesses(right, seed) for seed in range(n_seeds)])
    assert found is not None
    return found


def test_a_judgement_is_the_share_of_seeds_that_are_right() -> None:
    predicted = [np.array([0, 1, 2]), np.array([0, 2, -1])]
    found = judge(np.array(["a", "b", "c"]), np.array([0, 1, 2]), predicted)
    assert found is not None and found.right.tolist() == [1, 0.5, 0.5]
    assert judge(np.array(["a", "a"]), np.array([0, 1]), [np.array([0, 1])]) is None
    assert judge(IDS, LABELS, []) is None


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_the_interval_is_that_of_images_drawn_with_replacement(n_seeds: int) -> None:
    """The same draws, but every drawn image in a list of its own."""
    one, other = judged(0.8, n_seeds), judged(0.7, n_seeds)
    values = one.right - other.right
    kinds = sorted(set(values.round(9)))
    images_of = [np.flatnonzero(values.round(9) == kind) for kind in kinds]
    counts = np.random.default_rng(SEED).multinomial(N, [len(images) / N for images in images_of], size=DRAWS)
    means = []
    for of_draw in counts:
        drawn = [image for images, count in zip(images_of, of_draw, strict=True) for image in [images[0]] * count]
        assert len(drawn) == N
        means.append(sum(one.right[drawn]) / N - sum(other.right[drawn]) / N)
    found = difference(one, other)
    assert found is not None and found.n_images == N
    assert found.value == pytest.approx(np.mean(one.right) - np.mean(other.right), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((np.quantile(means, 0.025), np.quantile(means, 0.975)), abs=1e-9)


def test_the_width_is_mcnemars() -> None:
    one, other = judged(0.8).right, judged(0.72).right
    b, c = int(np.sum(one > other)), int(np.sum(one < other))
    assert b + c > 20
    std = np.sqrt((b + c - (b - c) ** 2 / N) / N**2)
    found = bootstrap(one - other)
    # the quantiles are multiples of 1 / N, and those of 10,000 draws vary by a fiftieth of a standard deviation
    assert found.high - found.low == pytest.approx(2 * 1.96 * std, abs=2 / N + 0.1 * std)


@pytest.mark.parametrize("make", [lambda: judged(0.8), lambda: judged(0.75, 3)])
def test_scipys_paired_bootstrap_agrees(make: Callable[[], Judged]) -> None:
    one, other = make(), judged(0.7)
    found = difference(one, other)
    assert found is not None
    theirs = stats.bootstrap(
        (one.right, other.right), lambda x, y, axis: x.mean(axis) - y.mean(axis), paired=True, vectorized=True,
        method="percentile", n_resamples=10_000, rng=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    # Monte Carlo: two sets of 10,000 draws; a quantile's standard error is about 0.03 standard deviations
    std = np.std(one.right - other.right) / np.sqrt(N)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.15 * std + 1 / N)


def test_images_are_paired_by_their_ids_and_not_by_their_places() -> None:
    one, other = judged(0.8), judged(0.7)
    order = np.random.default_rng(2).permutation(N)
    moved = Judged(other.ids[order], other.right[order])
    assert difference(one, moved) == difference(one, other)
    part = Judged(other.ids[order][:150], other.right[order][:150])
    found = difference(one, part)
    assert found is not None and found.n_images == 150
    assert found.value == pytest.approx(np.mean(one.right[order[:150]]) - np.mean(other.right[order[:150]]), abs=1e-12)
    assert difference(one, Judged(np.char.add(other.ids, "x"), other.right)) is None


def test_pairs_are_narrower_than_two_intervals_of_their_own() -> None:
    one, other = judged(0.8), judged(0.75)
    paired = difference(one, other)
    assert paired is not None
    each = [own_interval(which) for which in (one, other)]
    assert paired.high - paired.low < 0.7 * np.hypot(each[0].high - each[0].low, each[1].high - each[1].low)


def test_a_tie_holds_zero() -> None:
    same = difference(judged(0.8), judged(0.8))
    assert same is not None and (same.value, same.low, same.high) == (0, 0, 0) and same.holds_zero
    near, far = (bootstrap(np.repeat([1.0, -1.0, 0.0], [n, 9, N - 9 - n])) for n in (11, 40))
    assert near.holds_zero and not far.holds_zero
