"""Label columns of Hugging Face data sets: class indices with the split's own list of names, or plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import InputError
from .classes import NO_LABEL, Indices, index_class_sets, index_classes, one_hot

TRAIN = "train"


class LabelColumn:
    """The labels of one split.

    Attributes:
        names: class names by index, if the column's type has names.
        several: whether an image may have several classes.
        values: one label per image, or one list per image.
    """

    def __init__(self, feature: Any, values: Sequence[Any]) -> None:
        """Take the column's type and its values. A list with the fixed length 1 counts as the label in it."""
        element = element_of(feature)
        self.names: Sequence[str] | None = getattr(element, "names", None)
        self.several = element is not feature and getattr(feature, "length", -1) != 1
        is_column_of_one = element is not feature and not self.several
        self.values = [value and value[0] for value in values] if is_column_of_one else values

    @property
    def kind(self) -> str:
        """The kind of label in words."""
        return ("lists of " if self.several else "") + ("named classes" if self.names else "plain values")

    def check(self, where: str) -> None:
        """Check that every value is a label. If images have one label each, null is allowed too.

        Raises:
            InputError: a value is not a label; the message names it.
        """
        for value in self.values:
            if self.several:
                fits = isinstance(value, list) and all(map(self._is_label, value))
            else:
                fits = value is None or value == NO_LABEL or self._is_label(value)
            if not fits:
                expected = f"class indices below {len(self.names)}" if self.names else "text or integers"
                raise InputError(f"{where} holds {value!r}; expected {expected}")

    def renumbered(self, label_of: Mapping[str, int]) -> list[Any]:
        """Return the values as indices into another list of classes, matched by name."""
        index: dict[int | None, int] = {None: NO_LABEL, NO_LABEL: NO_LABEL}
        index |= {label: label_of[name] for label, name in enumerate(self.names or [])}
        if self.several:
            return [[index[value] for value in of_image] for of_image in self.values]
        return [index[value] for value in self.values]

    def _is_label(self, value: Any) -> bool:
        if self.names:
            return isinstance(value, int) and 0 <= value < len(self.names)
        return isinstance(value, int | str) and not isinstance(value, bool)


def index_columns(columns: Mapping[str, LabelColumn], where: str) -> tuple[dict[str, Indices], Sequence[str]]:
    """Turn the labels of all splits into class indices that agree between splits.

    Splits may list their classes in different orders, or lack some: labels are matched by name. The list of classes is
    the training split's, followed by names that only other splits have.

    Args:
        columns: column of each split.
        where: the column's name and source, for the error.

    Returns:
        (n,) or (n, classes) int64 per split, and the class names by index.

    Raises:
        InputError: the columns are of different kinds, or hold a value that is not a label.
    """
    kinds = {split: column.kind for split, column in columns.items()}
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{kind} in {split!r}" for split, kind in kinds.items())
        raise InputError(f"{where} holds {listed}; save all splits with the same type of label")
    for column in columns.values():
        column.check(where)
    first = next(iter(columns.values()))
    if not first.names:
        values = {split: column.values for split, column in columns.items()}
        return index_class_sets(values, where) if first.several else index_classes(values, where)
    order = sorted(columns, key=lambda split: (split != TRAIN, split))
    classes = list(dict.fromkeys(name for split in order for name in columns[split].names or []))
    label_of = {name: label for label, name in enumerate(classes)}
    renumbered = {split: column.renumbered(label_of) for split, column in columns.items()}
    if first.several:
        return {split: one_hot(values, len(classes), where) for split, values in renumbered.items()}, classes
    return {split: np.array(values, dtype=np.int64) for split, values in renumbered.items()}, classes


def element_of(feature: Any) -> Any:
    """Return the type of a list's elements, or the type itself. A list of labels means several classes per image."""
    return getattr(feature, "feature", feature)
