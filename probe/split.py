"""Which rows of the training split are held out to select on."""

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..store.order import permutation

Rows = npt.NDArray[np.int64]


def hold_out(labels: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Split rows into (training, validation), both sorted: seeded, and stratified by class.

    Of a class with c images round(c · fraction) are held out, at least one and at most c - 1.

    Args:
        labels: (n,) of the training split.
        fraction: between 0 and 1.
        seed: of the choice.

    Raises:
        InputError: the fraction is out of range, or a class has a single image.
    """
    if not 0 < fraction < 1:
        raise InputError(f"val {fraction}: expected a fraction between 0 and 1")
    order = permutation(len(labels), seed, 2)
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        if len(of_class) < 2:
            raise InputError(f"class {label} has one training image; a validation split needs two or more")
        held[of_class[: min(max(1, round(len(of_class) * fraction)), len(of_class) - 1)]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
