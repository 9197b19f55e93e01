"""Class names from what a table, a tar or a column gives as labels."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ...errors import InputError

MAX_CLASSES = 10**6


def index_classes(
    values: Mapping[str, Sequence[int | str]], where: str
) -> tuple[dict[str, npt.NDArray[np.int64]], list[str]]:
    """Turn labels into class indices, the same for all splits.

    Integers are indices already and stay what they are, whichever of them occur; texts are names, and sorted.
    Texts that are all written as integers count as such.

    Args:
        values: of each split, one an image.
        where: what holds them, for the error.

    Returns:
        (n,) int64 for each split, and the class names by index.

    Raises:
        InputError: an integer is no class index.
    """
    found: set[int | str] = {value for of_split in values.values() for value in of_split}
    if all(_is_integer(value) for value in found):
        index: dict[int | str, int] = {value: int(value) for value in found}
        for value in index.values():
            if not 0 <= value < MAX_CLASSES:
                raise InputError(f"label {value} in {where}: integers are class indices, from 0 to {MAX_CLASSES - 1}")
        classes = [str(label) for label in range(1 + max(index.values(), default=-1))]
    else:
        classes = sorted({str(value) for value in found})
        label_of = {name: label for label, name in enumerate(classes)}
        index = {value: label_of[str(value)] for value in found}
    labels = {
        split: np.fromiter((index[value] for value in of_split), dtype=np.int64, count=len(of_split))
        for split, of_split in values.items()
    }
    return labels, classes


def _is_integer(value: int | str) -> bool:
    return isinstance(value, int) or (value.removeprefix("-").isdecimal() and value.isascii())
