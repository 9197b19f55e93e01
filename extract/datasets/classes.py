"""Class names and indices from the labels in a table, a tar or a column."""

from collections.abc import Mapping, Sequence, Set

import numpy as np
import numpy.typing as npt

from ...errors import InputError

MAX_CLASSES = 10**6


def index_classes(
    values: Mapping[str, Sequence[int | str]], where: str
) -> tuple[dict[str, npt.NDArray[np.int64]], list[str]]:
    """Turn labels into class indices, the same for all splits.

    Integers are indices already and stay the same, whichever of them occur; texts are names, and sorted.
    Texts that are all written as integers count as such.

    Args:
        values: of each split, one label per image.
        where: the table or column that holds them, for the error.

    Returns:
        (n,) int64 for each split, and the class names by index.

    Raises:
        InputError: an integer is no class index.
    """
    index, classes = _index({value for of_split in values.values() for value in of_split}, where)
    labels = {
        split: np.fromiter((index[value] for value in of_split), dtype=np.int64, count=len(of_split))
        for split, of_split in values.items()
    }
    return labels, classes


def index_class_sets(
    values: Mapping[str, Sequence[Sequence[int | str]]], where: str
) -> tuple[dict[str, npt.NDArray[np.int64]], list[str]]:
    """Turn labels into class indices as `index_classes` does, for any number of labels per image.

    Returns:
        (n, classes) int64 for each split, 1 for the classes of an image and 0 for others, and the class names.

    Raises:
        InputError: an integer is no class index.
    """
    index, classes = _index(
        {value for of_split in values.values() for of_image in of_split for value in of_image}, where
    )
    return {
        split: one_hot([[index[value] for value in of_image] for of_image in of_split], len(classes))
        for split, of_split in values.items()
    }, classes


def one_hot(indices: Sequence[Sequence[int]], n_classes: int) -> npt.NDArray[np.int64]:
    """Return (n, classes) int64: 1 at the class indices of each image, else 0."""
    labels = np.zeros((len(indices), n_classes), dtype=np.int64)
    for row, of_image in enumerate(indices):
        labels[row, list(of_image)] = 1
    return labels


def _index(found: Set[int | str], where: str) -> tuple[dict[int | str, int], list[str]]:
    """Return the index of each label, and the class names by index."""
    if not all(_is_integer(value) for value in found):
        classes = sorted({str(value) for value in found})
        label_of = {name: label for label, name in enumerate(classes)}
        return {value: label_of[str(value)] for value in found}, classes
    index = {value: int(value) for value in found}
    for label in index.values():
        if not 0 <= label < MAX_CLASSES:
            raise InputError(f"label {label} in {where}: integers are class indices, from 0 to {MAX_CLASSES - 1}")
    return index, [str(label) for label in range(1 + max(index.values(), default=-1))]


def _is_integer(value: int | str) -> bool:
    return isinstance(value, int) or (value.removeprefix("-").isdecimal() and value.isascii())
