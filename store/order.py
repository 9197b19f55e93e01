"""Seeded orders that stay the same in every version of numpy, on every machine."""

import numpy as np
import numpy.typing as npt


def permutation(n: int, *seed: int) -> npt.NDArray[np.int64]:
    """Return a permutation of range(n) that is a function of the non-negative integers `seed`.

    numpy promises a stable stream of its bit generators, but not of `Generator.permutation`; so this
    sorts raw draws.
    """
    draws = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(n)
    return np.argsort(draws, kind="stable").astype(np.int64)
