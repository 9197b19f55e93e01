"""`csv:FILE[?root=FOLDER]`, `parquet:FILE[?root=FOLDER]`: a table with one row per image.

The columns are `path`, `label` and, for several splits, `split`; others are ignored. Paths are relative to the table's
folder, or to `root`. Labels are class indices or class names. If an image may have several classes or none, the column
is `labels`: in CSV "cat|dog" or nothing, in Parquet a list. Blanks around names of columns, labels and splits do not
count. An empty label or -1 means no label.
"""

import csv
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from xxhash import xxh3_128

from ...errors import InputError, MissingError
from .classes import check_labelled, index_class_sets, index_classes
from .contract import ImageList
from .files import ABSENT_SIZE, check_no_pointer, file_size, read_image
from .options import absolute, join_options, split_options

Columns = Mapping[str, Sequence[Any]]
COLUMNS = PATH, LABEL, LABELS, SPLIT = "path", "label", "labels", "split"
SEPARATOR = "|"


class ManifestImages:
    """Image files that a table names.

    A listed image that is not on the disk is unreadable. If none is on the disk, listing the split is an error.
    """

    upright = False

    def __init__(self, kind: str, read: Callable[[str], Columns], argument: str) -> None:
        """Read the table.

        Args:
            kind: name of the source.
            read: function that reads a file into columns.
            argument: path of the file, and options.

        Raises:
            MissingError: no such file.
            InputError: the table does not have the form above.
        """
        file, options = split_options(kind, argument, ["root"])
        if not Path(file).is_file():
            raise MissingError(f"no file at {file!r}; expected a table of images there")
        options = {key: absolute(value) for key, value in options.items()}
        self.name = f"{kind}:{Path(file).name}"
        self.spec = f"{kind}:{join_options(absolute(file), options)}"
        self._root = options.get("root", os.path.dirname(absolute(file)))
        check_no_pointer(file)
        columns = read(file)
        _check_columns(columns, file)
        rows = _rows_of_splits(columns, file)
        self.splits: Sequence[str] = sorted(rows)
        self._ids = {
            split: [_key(columns[PATH][row], self._root) for row in of_split] for split, of_split in rows.items()
        }
        for split, ids in self._ids.items():
            _check_unique(ids, split, file)
        name, index = (LABELS, index_class_sets) if LABELS in columns else (LABEL, index_classes)
        labels = {split: [columns[name][row] for row in of_split] for split, of_split in rows.items()}
        self._labels, classes = index(labels, repr(file))
        self.classes: Sequence[str] = classes

    def images(self, split: str) -> ImageList:
        """List a split in the table's order; ids are paths relative to the root.

        Raises:
            InputError: some images have no label.
            MissingError: none of the images exists.
        """
        ids, labels = self._ids[split], self._labels[split]
        check_labelled(labels, split, repr(self.spec))
        sizes = [file_size(os.path.join(self._root, key)) for key in ids]
        if all(size == ABSENT_SIZE for size in sizes):
            raise MissingError(
                f"none of the {len(ids)} images of split {split!r} exists, such as {ids[0]!r} in {self._root!r}; "
                f"name the folder that holds them as {self.spec.partition('?')[0]}?root=FOLDER"
            )
        content = xxh3_128()
        for key, size, label in zip(ids, sizes, labels, strict=True):
            names = [self.classes[int(one)] for one in (np.flatnonzero(label) if label.ndim else [label])]
            content.update(f"{key} {size} {SEPARATOR.join(names)}\n".encode())
        return ImageList(ids, labels, content.hexdigest())

    def load(self, split: str, index: int) -> Image.Image:
        """Decode one image."""
        return read_image(os.path.join(self._root, self._ids[split][index]))


def read_csv(file: str) -> Columns:
    """Read a CSV file with a header; all values are text.

    Raises:
        InputError: the file is not UTF-8, a row has more or fewer fields than the header, or the header repeats a
            column that is read.
    """
    rows: list[list[str]] = []
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            header = next(reader, [])
            for row in filter(None, reader):
                if len(row) != len(header):
                    raise InputError(
                        f"line {reader.line_num} of {file!r} has {len(row)} fields, but the header has {len(header)}"
                    )
                rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file!r} is not a readable CSV file in UTF-8: {error}") from error
    names = [name.strip() for name in header]
    _check_once(names, file)
    columns: dict[str, list[Any]] = {name: [row[column] for row in rows] for column, name in enumerate(names)}
    if LABELS in columns:
        columns[LABELS] = [text.split(SEPARATOR) if text.strip() else [] for text in columns[LABELS]]
    if SPLIT in columns:
        columns[SPLIT] = [split.strip() for split in columns[SPLIT]]
    return columns


def read_parquet(file: str) -> Columns:
    """Read the used columns of a Parquet file.

    Raises:
        InputError: the file is not readable as Parquet, or repeats a column that is read.
    """
    from pyarrow import parquet

    try:
        names = parquet.read_schema(file).names
        _check_once(names, file)
        used = [name for name in names if name in COLUMNS]
        columns: Columns = parquet.read_table(file, columns=used, partitioning=None).to_pydict()
    except InputError:
        raise
    except Exception as error:  # pyarrow raises many kinds for damaged bytes, and for values of some types
        raise InputError(f"{file!r} is not a readable Parquet file: {error}") from error
    return columns or {name: [] for name in names}


def _check_once(names: Sequence[str], file: str) -> None:
    for name, n in Counter(names).items():
        if n > 1 and name in COLUMNS:
            raise InputError(f"{file!r} has {n} columns {name!r}; keep one of them")


open_csv = partial(ManifestImages, "csv", read_csv)
open_parquet = partial(ManifestImages, "parquet", read_parquet)


def _check_columns(columns: Columns, file: str) -> None:
    if PATH not in columns or (LABEL in columns) == (LABELS in columns):
        raise InputError(
            f"{file!r} has columns {', '.join(columns) or 'none'}; expected {PATH}, {LABEL} (or {LABELS} for several "
            f"per image), and {SPLIT} if there are several splits"
        )
    if not columns[PATH]:
        raise InputError(f"{file!r} lists no images")
    kinds = {PATH: "a path", LABEL: "text or an integer", LABELS: "texts or integers"}
    kinds |= {SPLIT: "text"}
    fits = {PATH: _is_path, LABEL: _is_label, LABELS: _are_labels, SPLIT: _is_text}
    for name in kinds.keys() & columns.keys():
        for row, value in enumerate(columns[name]):
            if not fits[name](value):
                raise InputError(f"image {row} of {file!r} has {name} {value!r}; expected {kinds[name]}")


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _is_label(value: Any) -> bool:
    return value is None or (isinstance(value, str | int) and not isinstance(value, bool))


def _are_labels(value: Any) -> bool:
    return isinstance(value, list) and all(each is not None and _is_label(each) for each in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _rows_of_splits(columns: Columns, file: str) -> dict[str, list[int]]:
    """Return the rows of each split; without a column `split`, all rows belong to train."""
    rows: dict[str, list[int]] = {}
    for row, split in enumerate(columns.get(SPLIT, ["train"] * len(columns[PATH]))):
        rows.setdefault(split, []).append(row)
    return rows


def _key(path: str, root: str) -> str:
    """Return a path as a stable key: relative to the root, without "." and ".."."""
    return os.path.relpath(path, root) if os.path.isabs(path) else os.path.normpath(path)


def _check_unique(ids: Sequence[str], split: str, file: str) -> None:
    twice = next((key for key, n in Counter(ids).items() if n > 1), None)
    if twice is not None:
        raise InputError(f"{file!r} lists {twice!r} more than once in split {split!r}; an image has one row")
