"""Labels, ids and channel statistics, checked when they are read: one flipped bit in them spoils a whole fit.

If a journal records the files, their sizes and hashes are compared with it. Types, shapes and ranges are always
checked.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_hexdigest

from . import journal
from .checked import UnfitError, read_file
from .contents import SplitInfo
from .contract import StoredArrays

Array = npt.NDArray[Any]


def read_small(arrays: StoredArrays, array: str) -> Array:
    """Read a small array, such as "train/labels", and compare its files with the journal.

    Raises:
        StoreError: the array is missing or damaged; the message names the file.
    """
    files = arrays.journaled_files()
    if files is not None:
        for name, record in journal.find_records(files.folder, files.whole_names(array)).items():
            path = files.folder / name
            if path.is_file() and xxh3_64_hexdigest(read_file(path)) != record.xxh3:
                raise files.damaged(path, "its bytes differ from those that were written")
    return arrays.read_whole(array)


def read_labels(arrays: StoredArrays, array: str, info: SplitInfo) -> npt.NDArray[np.int64]:
    """Read the labels of a split: (n,) int64 class indices, or (n, classes) int64 of 0 and 1.

    Raises:
        StoreError: they are missing or damaged: not one per row, or not of a known class.
    """
    labels = read_small(arrays, array)
    try:
        check_labels(labels, info.n_images, len(info.classes))
    except UnfitError as error:
        raise arrays.damaged(f"{arrays.path}/{array}", error) from error
    return labels


def check_labels(labels: Array, n_images: int, n_classes: int) -> None:
    """Refuse labels that do not fit `n_images` images of `n_classes` classes.

    Raises:
        UnfitError: wrong type, shape or range.
    """
    if labels.dtype != np.int64 or labels.shape not in ((n_images,), (n_images, n_classes)):
        raise UnfitError(
            f"labels are {labels.dtype} of shape {labels.shape}; expected int64 of ({n_images},) or "
            f"({n_images}, {n_classes})"
        )
    bad = (labels < 0) | (labels > (n_classes - 1 if labels.ndim == 1 else 1))
    if bad.any():
        at = tuple(map(int, np.argwhere(bad)[0]))
        expected = f"0 to {n_classes - 1}, for {n_classes} classes" if labels.ndim == 1 else "0 or 1"
        raise UnfitError(f"the label in row {at[0]} is {labels[at]}; expected {expected}")


def read_ids(arrays: StoredArrays, array: str, n_images: int) -> list[str]:
    """Read the ids of a split, one per row.

    Raises:
        StoreError: they are missing or damaged.
    """
    ids = read_small(arrays, array)
    if ids.shape != (n_images,) or ids.dtype.kind not in "OUT":
        why = f"ids are {ids.dtype} of shape {ids.shape}; expected text of ({n_images},)"
        raise arrays.damaged(f"{arrays.path}/{array}", why)
    return [str(key) for key in ids]


def read_channels(arrays: StoredArrays, array: str, dim: int) -> npt.NDArray[np.float32]:
    """Read mean and deviation per channel of int8 tokens: (2, dim) float32.

    Raises:
        StoreError: they are missing or damaged.
    """
    channels = read_small(arrays, array)
    if channels.dtype != np.float32 or channels.shape != (2, dim) or not np.isfinite(channels).all():
        why = f"channels are {channels.dtype} of shape {channels.shape}; expected finite float32 of (2, {dim})"
        raise arrays.damaged(f"{arrays.path}/{array}", why)
    return channels
