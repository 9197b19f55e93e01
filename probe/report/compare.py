"""Intervals by the bootstrap over test images, for one figure and for the difference of two.

a_i is the share of a head's seeds that are right on image i, and b_i that of another head or backbone, for the n images
that both are tested on. With d_i = a_i - b_i, the difference is D = (1/n) Σ d_i. One draw takes n of the n images with
replacement, the same images for both, and gives D* = (1/n) Σ d_i over the images drawn. The interval lies between the
2.5 % and the 97.5 % quantile of D* over many draws (the percentile bootstrap; Efron and Tibshirani, 1993, chapter 13).
With b_i = 0 it is the interval of a figure.

d has few distinct values v_k, of n_k images each. The number m_k of images drawn with each value is multinomial, so one
multinomial draw gives the same as n draws of images, and D* = (1/n) Σ m_k v_k.

For many images the variance of D* tends to (mean(d²) - D²) / n. With one seed that is McNemar's: with b images that
only the first gets right and c that only the second does, (b + c - (b - c)²/n) / n².

Seeds are averaged and not drawn. So an interval says how far D may move with other test images, for these heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL, DRAWS, SEED = 0.95, 10_000, 0


@dataclass(frozen=True)
class Judged:
    """The judgement of every test image by the cells of one head that differ in their seeds.

    Attributes:
        ids: (n,) text, each once.
        right: (n,) float64, the share of the seeds that are right.
    """

    ids: NDArray[np.str_]
    right: NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure or a difference of figures, as a fraction, with its interval.

    Attributes:
        value: over the images as they are.
        low: the lower end.
        high: the upper end.
        n_images: number of images.
    """

    value: float
    low: float
    high: float
    n_images: int

    @property
    def holds_zero(self) -> bool:
        """Whether a difference may be chance: a tie."""
        return self.low <= 0 <= self.high


def judge(ids: NDArray[np.str_], labels: NDArray[np.int64], predicted: Sequence[NDArray[np.int64]]) -> Judged | None:
    """Judge the predicted classes (n,) of one or more seeds. Return None if ids repeat: they cannot be paired."""
    if not predicted or len(np.unique(ids)) < len(ids):
        return None
    return Judged(ids, np.mean([classes == labels for classes in predicted], axis=0))


def own_interval(one: Judged) -> Interval:
    """Return the interval of a figure."""
    return bootstrap(one.right)


def difference(one: Judged, other: Judged) -> Interval | None:
    """Return the interval of the first figure minus the second, over the images of both, or None if there are none."""
    if np.array_equal(one.ids, other.ids):
        return bootstrap(one.right - other.right)
    common, of_one, of_other = np.intersect1d(one.ids, other.ids, assume_unique=True, return_indices=True)
    return bootstrap(one.right[of_one] - other.right[of_other]) if len(common) else None


def bootstrap(values: NDArray[np.float64]) -> Interval:
    """Return the mean of values (n,), one per image, with its interval. The same values give the same interval."""
    n = len(values)
    kinds, n_each = np.unique(values.round(9), return_counts=True)  # sums of seeds that are equal but for rounding
    drawn = np.random.default_rng(SEED).multinomial(n, n_each / n, size=DRAWS)
    low, high = np.quantile(drawn @ kinds / n, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high), n)
