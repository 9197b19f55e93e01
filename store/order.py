"""Seeded orders that are the same in every version of numpy and on every machine."""

import numpy as np
import numpy.typing as npt

RowNumbers = npt.NDArray[np.int64]
"""Row numbers: (n,) int64, counted from 0, in any order."""


def permutation(n: int, first: int, *rest: int) -> RowNumbers:
    """Return a permutation of range(n) that depends only on the seeds `first` and `rest`, non-negative integers.

    numpy promises a stable stream from its bit generators, but not from `Generator.permutation`. So this function
    sorts raw draws.
    """
    draws = np.random.PCG64(np.random.SeedSequence(first, spawn_key=rest)).random_raw(n)
    return np.argsort(draws, kind="stable").astype(np.int64)
