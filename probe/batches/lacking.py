"""A message about classes that training lacks, with their numbers of scored images."""

from collections.abc import Mapping, Sequence

import numpy as np

from ...runtime.text import plural
from .subsets import Labels

N_NAMED = 5


def lacking_classes(labels: Labels, n_classes: int) -> list[int]:
    """Return the classes that no image shows.

    Args:
        labels: (n,), or (n, C) of ones and zeros.
        n_classes: C.
    """
    counts = np.bincount(labels, minlength=n_classes) if labels.ndim == 1 else labels.sum(0)
    return [int(label) for label in np.flatnonzero(counts == 0)]


def describe_lacking(train: Labels, scored: Mapping[str, Labels], names: Sequence[str]) -> str | None:
    """Describe the classes that training lacks, with their scored images and how these count; else return None.

    Args:
        train: labels of the training images, (n,) or (n, C) of ones and zeros.
        scored: labels of the images of each kind, such as "test".
        names: class names.
    """
    lacking = lacking_classes(train, len(names))
    if not lacking:
        return None
    more = f" and {len(lacking) - N_NAMED} more" * (len(lacking) > N_NAMED)
    listed = ", ".join(repr(names[label]) for label in lacking[:N_NAMED]) + more
    line = f"{len(lacking)} of {len(names)} classes {plural(len(lacking), 'has', 'have')} no training image ({listed})"
    affected = {kind: _count_of(labels, lacking) for kind, labels in scored.items()}
    counts = [f"{n:,} of {len(scored[kind]):,} {kind} images" for kind, n in affected.items() if n]
    if not counts:
        return f"{line}, and no scored image is of {plural(len(lacking), 'it', 'them')}"
    fate = ("are of", "count as errors") if train.ndim == 1 else ("show", "are ranked by chance")
    what = plural(len(lacking), "it", "them")
    return f"{line}: {' and '.join(counts)} {fate[0]} {what}, which no head can learn, and {fate[1]}"


def _count_of(labels: Labels, classes: Sequence[int]) -> int:
    """Return the number of images of some classes."""
    of_them = np.isin(labels, classes) if labels.ndim == 1 else labels[:, list(classes)].any(1)
    return int(of_them.sum())
