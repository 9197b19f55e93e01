"""Class names and indices from the labels in a table, a tar, an array or a column."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from ...errors import InputError

MAX_CLASSES = 10**6
NO_LABEL = -1
MAX_DIGITS = 18
"""Most digits of a label that is read as a number; longer ones are out of range."""
MAX_TABLE_BYTES = 2**35
"""Largest table of labels of one split, with several labels per image: one int64 per image and class."""

Label = int | str | None
Indices = npt.NDArray[np.int64]


def index_classes(values: Mapping[str, Sequence[Label]], where: str) -> tuple[dict[str, Indices], list[str]]:
    """Turn labels into class indices that agree between splits.

    Integers are class indices and stay unchanged, even if some indices do not occur. Texts are class names and are
    sorted; if all texts are written as integers, they count as integers. None, an empty text and -1 mean no label.

    Args:
        values: for each split, one label per image.
        where: the table or column that holds them, for the error.

    Returns:
        (n,) int64 per split, `NO_LABEL` for images without a label; and the class names by index.

    Raises:
        InputError: an integer is not a class index.
    """
    index, classes = _index(chain.from_iterable(values.values()), where)
    labels = {
        split: np.fromiter((index[value] for value in of_split), dtype=np.int64, count=len(of_split))
        for split, of_split in values.items()
    }
    return labels, classes


def index_class_sets(
    values: Mapping[str, Sequence[Sequence[int | str]]], where: str
) -> tuple[dict[str, Indices], list[str]]:
    """Turn labels into class indices as `index_classes` does, for any number of labels per image.

    Returns:
        (n, classes) int64 per split, 1 for the classes of an image and 0 for others; and the class names by index.

    Raises:
        InputError: an integer is not a class index, a text is empty, or the table of labels would be too large.
    """
    index, classes = _index((value for of_split in values.values() for each in of_split for value in each), where)
    for of_image in chain.from_iterable(values.values()):
        if any(index[value] == NO_LABEL for value in of_image):
            raise InputError(f"{where} holds {list(of_image)!r}; expected class names or indices, none of them empty")
    return {
        split: one_hot([[index[value] for value in of_image] for of_image in of_split], len(classes), where)
        for split, of_split in values.items()
    }, classes


def one_hot(indices: Sequence[Sequence[int]], n_classes: int, where: str) -> Indices:
    """Return (n, classes) int64: 1 at the class indices of each image, else 0.

    Raises:
        InputError: the table would be too large.
    """
    if len(indices) * n_classes * 8 > MAX_TABLE_BYTES:
        raise InputError(
            f"{where}: a table of {len(indices):,} images × {n_classes:,} classes takes "
            f"{len(indices) * n_classes * 8 / 1e9:,.0f} GB; class indices count from 0: use fewer classes, or names"
        )
    labels = np.zeros((len(indices), n_classes), dtype=np.int64)
    for row, of_image in enumerate(indices):
        labels[row, list(of_image)] = 1
    return labels


def check_labelled(labels: Indices, split: str, where: str) -> None:
    """Check that every image of a split has a label.

    Args:
        labels: (n,) or (n, classes), `NO_LABEL` for images without a label.
        split: its name, for the error.
        where: the source, for the error.

    Raises:
        InputError: some images have no label.
    """
    n_without = int((labels.reshape(len(labels), -1) == NO_LABEL).any(axis=1).sum()) if labels.size else 0
    if n_without:
        raise InputError(
            f"{n_without} of {len(labels)} images in split {split!r} of {where} have no label, "
            f"or the label {NO_LABEL} (class indices count from 0); name other splits with --split to leave it out"
        )


def class_name(text: str) -> str:
    """Return the class name in a label's text: texts that look alike get one spelling.

    The function drops a byte order mark and surrounding blanks, and composes letters (Unicode NFC): macOS separates
    accents from letters in folder names, most other programs do not.
    """
    return unicodedata.normalize("NFC", text.removeprefix("\ufeff").strip())


def _index(values: Iterable[Label], where: str) -> tuple[dict[Label, int], list[str]]:
    """Return the index of each label (`NO_LABEL` for None, "" and -1), and the class names by index."""
    names = {value: class_name(str(value)) if value is not None else "" for value in set(values)}
    absent = {value for value, name in names.items() if name in ("", str(NO_LABEL))}
    found = {name for value, name in names.items() if value not in absent}
    if all(map(_is_integer, found)):
        index = {name: _class_index(name, where) for name in found}
        classes = [str(label) for label in range(1 + max(index.values(), default=-1))]
    else:
        classes = sorted(found)
        index = {name: label for label, name in enumerate(classes)}
    return {value: NO_LABEL if value in absent else index[name] for value, name in names.items()}, classes


def _is_integer(name: str) -> bool:
    return name.isascii() and name.removeprefix("-").isdecimal()


def _class_index(name: str, where: str) -> int:
    label = int(name) if len(name) <= MAX_DIGITS else MAX_CLASSES
    if not 0 <= label < MAX_CLASSES:
        raise InputError(f"label {name[:40]} in {where}: integers are class indices, from 0 to {MAX_CLASSES - 1}")
    return label
