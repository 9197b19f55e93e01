"""The choice of training rows, and of rows held out to select on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from ...runtime.text import plural
from ...store.order import RowNumbers, permutation

Labels = npt.NDArray[np.int64]
FULL = "full"
HOLD_OUT, SUBSET = 2, 3
"""Random streams of a seed: draws for one purpose are independent of draws for the other."""


def parse_shots(shots: Sequence[str], fractions: Sequence[float]) -> list[str]:
    """Return the requested subsets as text: "full", "16" for images per class, "0.1" for a fraction of each class.

    Raises:
        InputError: not "full" or a positive number, or a fraction outside 0 to 1.
    """
    for shot in shots:
        if shot != FULL and not (shot.isascii() and shot.isdigit() and int(shot)):
            raise InputError(f"shots {shot!r}: expected full, or a number of images per class, 1 or more")
    for fraction in fractions:
        if not 0 < fraction < 1:
            raise InputError(f"fraction {fraction}: expected a number between 0 and 1 (for all, --shots full)")
    named = [shot if shot == FULL else str(int(shot)) for shot in shots] + [str(float(value)) for value in fractions]
    return list(dict.fromkeys(named)) or [FULL]


def is_fraction(shots: str) -> bool:
    """Return whether a subset is a fraction of each class, not a number of images."""
    return shots != FULL and not shots.isdigit()


def hold_out(labels: Labels, fraction: float, seed: int, names: Sequence[str]) -> tuple[RowNumbers, RowNumbers]:
    """Split rows into (training, validation), both sorted: seeded, and stratified by class.

    A class with c images gives round(c · fraction) of them, at least one and at most c - 1. Images with several labels
    are held out without regard to class.

    Args:
        labels: (n,) of the training split, or (n, C) of ones and zeros.
        fraction: between 0 and 1.
        seed: seed of the choice.
        names: class names, for the error.

    Raises:
        InputError: the fraction is out of range, or a class has a single image.
    """
    if not 0 < fraction < 1:
        raise InputError(f"val {fraction}: expected a fraction between 0 and 1")
    classes, turn = _turns(labels, np.arange(len(labels)), permutation(len(labels), seed, HOLD_OUT))
    counts = np.bincount(classes)
    if labels.ndim == 1 and (counts == 1).any():
        name = names[counts.tolist().index(1)]
        raise InputError(
            f"class {name!r} has one training image, so none can be held out for selection; give --val-split, or "
            "--protocol paper"
        )
    n_held = np.clip(_rounded(counts * fraction), 1, np.maximum(counts - 1, 1))
    held = turn < n_held[classes]
    return np.flatnonzero(~held), np.flatnonzero(held)


def subset(labels: Labels, rows: RowNumbers, shots: str, seed: int, names: Sequence[str]) -> RowNumbers:
    """Choose training rows: k of each class, or a fraction of each, at least one; sorted. Empty classes are skipped.

    With one seed, a smaller subset lies inside every larger one. Images with several labels are drawn without regard
    to class.

    Args:
        labels: (n,) of the split, or (n, C) of ones and zeros.
        rows: sorted rows to choose from.
        shots: the subset, as `parse_shots` returns it.
        seed: seed of the choice.
        names: class names, for the error.

    Raises:
        InputError: a class has images, but fewer than k, or images have several labels and k per class are requested.
    """
    if shots == FULL:
        return rows
    classes, turn = _turns(labels, rows, permutation(len(labels), seed, SUBSET))
    counts = np.bincount(classes, minlength=len(names) if labels.ndim == 1 else 1)
    if is_fraction(shots):
        return rows[turn < np.maximum(1, _rounded(counts * float(shots)))[classes]]
    if labels.ndim > 1:
        raise InputError(
            f"shots {shots}: images have several labels, so there are no {shots} images per class; give --fraction"
        )
    short = np.flatnonzero((counts > 0) & (counts < int(shots)))
    if len(short):
        n_images, n_others = counts[short[0]], len(short) - 1
        raise InputError(
            f"shots {shots}: class {names[short[0]]!r} has {n_images} {plural(n_images, 'image')} to train on"
            + f", and {n_others} other {plural(n_others, 'class has', 'classes have')} too few" * (n_others > 0)
            + "; ask for fewer --shots"
        )
    return rows[turn < int(shots)]


def at_most_as_many(labels: Labels, rows: RowNumbers, of_labels: Labels, seed: int) -> RowNumbers:
    """Choose validation rows, per class at most as many as training images; sorted.

    Args:
        labels: labels of the split that holds the validation rows.
        rows: sorted validation rows.
        of_labels: labels of the training images.
        seed: seed of the run; subsets of one size share their validation rows.
    """
    classes, turn = _turns(labels, rows, permutation(len(labels), seed, HOLD_OUT))
    if labels.ndim > 1:
        return rows[turn < len(of_labels)]
    return rows[turn < np.bincount(of_labels, minlength=classes.max(initial=0) + 1)[classes]]


def folds_of(labels: Labels, most: int) -> RowNumbers:
    """Divide images into folds, and return the fold of each, counted from 0.

    The folds are stratified, and there are min(most, images of the largest class) of them. A class with two images or
    more is in several folds, so no fold has all of it. The image of a class with one gets -1, for no fold. Images with
    several labels are divided without regard to class.

    Args:
        labels: (n,) of the images, or (n, C) of ones and zeros.
        most: largest number of folds.
    """
    rows = np.arange(len(labels))
    classes, turn = _turns(labels, rows, rows)
    counts = np.bincount(classes)
    return np.where(counts[classes] > 1, turn % min(most, counts.max()), -1)


def _turns(labels: Labels, rows: RowNumbers, order: RowNumbers) -> tuple[Labels, RowNumbers]:
    """Return each row's class, and the number of rows of that class before it in `order`."""
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[rows] = True
    order = order[chosen[order]]
    of_all = labels if labels.ndim == 1 else np.zeros(len(labels), dtype=np.int64)
    by_class = order[np.argsort(of_all[order], kind="stable")]
    starts = np.cumsum(np.bincount(of_all[rows], minlength=1)) - np.bincount(of_all[rows], minlength=1)
    turn = np.empty(len(labels), dtype=np.int64)
    turn[by_class] = np.arange(len(by_class)) - starts[of_all[by_class]]
    return of_all[rows], turn[rows]


def _rounded(values: npt.NDArray[np.floating[Any]]) -> RowNumbers:
    rounded: RowNumbers = np.rint(values).astype(np.int64)
    return rounded
