"""Seeded orders that stay the same in every version of numpy, on every machine."""

import numpy as np
import numpy.typing as npt


def permutation(n: int, first: int, *rest: int) -> npt.NDArray[np.int64]:
    """Return a permutation of range(n) that is a function of the seeds, non-negative integers.

    numpy promises a stable stream of its bit generators, but not of `Generator.permutation`; so this
    sorts raw draws.
    """
    draws = np.random.PCG64(np.random.SeedSequence(first, spawn_key=rest)).random_raw(n)
    return np.argsort(draws, kind="stable").astype(np.int64)
