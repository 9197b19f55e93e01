"""Warnings about classes: splits that share no class, and class lists that are mostly unused."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
N_NAMED = 3
"""Number of classes that a line names."""


def odd_classes(listed: Mapping[str, Indices], chosen: Mapping[str, Indices], classes: Sequence[str]) -> list[str]:
    """Return one line per oddity of the classes that a user should know before a long extraction.

    Args:
        listed: labels of all images of each split, (n,) class indices or (n, classes) of 0 and 1.
        chosen: labels of the images that become rows.
        classes: names by index.
    """
    return _sharing_none(chosen, classes) + _mostly_unused(listed, classes)


def classes_of(labels: Indices) -> Indices:
    """Return the sorted indices of the classes that have images."""
    return np.unique(labels) if labels.ndim == 1 else np.flatnonzero(labels.any(axis=0))


def _sharing_none(chosen: Mapping[str, Indices], classes: Sequence[str]) -> list[str]:
    found = {split: classes_of(labels) for split, labels in chosen.items()}
    return [
        f"splits {one!r} and {other!r} share no class, so heads trained on one cannot be tested on the other: "
        f"{one} has {_named(found[one], classes)}; {other} has {_named(found[other], classes)}"
        for one, other in combinations(found, 2)
        if len(found[one]) and len(found[other]) and not np.intersect1d(found[one], found[other]).size
    ]


def _mostly_unused(listed: Mapping[str, Indices], classes: Sequence[str]) -> list[str]:
    used = np.unique(np.concatenate([classes_of(labels) for labels in listed.values()]))
    if 2 * len(used) >= len(classes):
        return []
    heads = f"every head has {len(classes):,} outputs"
    if classes[-1] == str(len(classes) - 1):
        return [
            f"labels are class indices up to {classes[-1]}, but only {len(used):,} occur, and {heads}; number the "
            "classes from 0 without gaps, or use names as labels"
        ]
    unused = np.setdiff1d(np.arange(len(classes)), used)
    return [
        f"only {len(used):,} of {len(classes):,} classes have images, and {heads}; classes without images: "
        f"{_named(unused, classes)}"
    ]


def _named(indices: Indices, classes: Sequence[str]) -> str:
    more = f", … ({len(indices):,} in all)" if len(indices) > N_NAMED else ""
    return ", ".join(repr(classes[index]) for index in indices[:N_NAMED]) + more
