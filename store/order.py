"""Seeded orders that stay the same in every version of numpy, on every machine."""

import numpy as np
import numpy.typing as npt

RowNumbers = npt.NDArray[np.int64]
"""Numbers of rows: (n,) int64, counted from 0, in any order."""


def permutation(n: int, first: int, *rest: int) -> RowNumbers:
    """Return a permutation of range(n) that depends on the seeds alone: `first` and `rest`, non-negative integers.

    numpy promises a stable stream of its bit generators, but not of `Generator.permutation`; so this
    sorts raw draws.
    """
    draws = np.random.PCG64(np.random.SeedSequence(first, spawn_key=rest)).random_raw(n)
    return np.argsort(draws, kind="stable").astype(np.int64)
