"""`npz:FILE`: arrays `x_SPLIT` uint8 (n, H, W[, 3]) and `y_SPLIT`, optionally `classes`, all held in memory.

`y_SPLIT` is (n,) class indices or names, or (n, classes) of 0 and 1 if an image may have several classes. (n, 1) is
a column of class indices, one per image.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from xxhash import xxh3_128

from ...errors import InputError, MissingError
from .classes import MAX_CLASSES, NO_LABEL, Indices, check_labelled, index_classes
from .contract import ImageList
from .files import check_no_pointer
from .options import absolute

CLASSES = "classes"
DEMO_FILE = "fashion_mnist_7k.npz"


class NpzImages:
    """Images in one .npz file. The transform turns grey images into RGB by repeating the channel."""

    upright = False

    def __init__(self, path: str) -> None:
        """Read the file.

        Raises:
            MissingError: no such file.
            InputError: the file is not an .npz of the form above.
        """
        if not Path(path).is_file():
            raise MissingError(f"no file at {path!r}; expected an .npz with images there")
        self.name = f"npz:{Path(path).name}"
        self.spec = f"npz:{absolute(path)}"
        loaded = _read(path)
        self.splits: Sequence[str] = sorted(name[2:] for name in loaded if name.startswith("x_"))
        self._pixels = {split: loaded[f"x_{split}"] for split in self.splits}
        for split, pixels in self._pixels.items():
            shape = pixels.shape
            if pixels.dtype != np.uint8 or len(shape) not in (3, 4) or 0 in shape[1:] or shape[3:] not in ((), (3,)):
                raise InputError(
                    f"x_{split} in {path!r} is {pixels.dtype} {shape}; expected uint8 (n, H, W) or (n, H, W, 3)"
                )
        self._labels, self.classes = _index(loaded, self.splits, path)

    def images(self, split: str) -> ImageList:
        """List a split; ids are positions in the file's arrays.

        Raises:
            InputError: some images have no label.
        """
        labels = self._labels[split]
        check_labelled(labels, split, repr(self.spec))
        content = xxh3_128(str(self._pixels[split].shape).encode())
        content.update(np.ascontiguousarray(self._pixels[split]).data)
        content.update(labels.tobytes() if labels.ndim == 1 else f"{labels.shape}".encode() + labels.tobytes())
        return ImageList([f"{split}/{index:06d}" for index in range(len(labels))], labels, content.hexdigest())

    def load(self, split: str, index: int) -> Image.Image:
        """Return one image."""
        return Image.fromarray(self._pixels[split][index])


def open_demo(argument: str) -> NpzImages:
    """Open `demo`, the bundled part of Fashion-MNIST."""
    if argument:
        raise InputError(f"the data set 'demo' takes no argument, got {argument!r}")
    source = NpzImages(str(files("tokenprobe") / "assets" / DEMO_FILE))
    source.name = source.spec = "demo"
    return source


def _read(path: str) -> dict[str, npt.NDArray[Any]]:
    """Return the used arrays of a file by name."""
    check_no_pointer(path)
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            used = [name for name in arrays.files if name.startswith(("x_", "y_")) or name == CLASSES]
            loaded = {name: np.asarray(arrays[name]) for name in used}
            there = ", ".join(sorted(arrays.files)) or "nothing"
    except Exception as error:  # zipfile, zlib and numpy each raise their own kinds for damaged bytes
        raise InputError(f"{path!r} is not a readable .npz file: {error or type(error).__name__}") from error
    if not any(name.startswith("x_") for name in loaded):
        raise InputError(f"{path!r} holds no arrays x_SPLIT; it has {there}")
    return loaded


def _index(
    loaded: Mapping[str, npt.NDArray[Any]], splits: Sequence[str], path: str
) -> tuple[dict[str, Indices], Sequence[str]]:
    """Return the labels of each split, and the class names by label."""
    found = {split: _labels(loaded, split, path) for split in splits}
    if len({(labels.shape[1:], labels.dtype.kind == "U") for labels in found.values()}) > 1:
        listed = ", ".join(f"y_{split} {labels.dtype} {labels.shape}" for split, labels in found.items())
        raise InputError(
            f"labels in {path!r} differ in shape or type between splits ({listed}); expected the same form"
        )
    where, names = f"y_SPLIT in {path!r}", _class_names(loaded, path)
    some = next(iter(found.values()))
    if some.dtype.kind == "U":
        if names:
            raise InputError(f"{path!r} holds class names twice, in y_SPLIT and in classes; leave out one of them")
        return index_classes({split: labels.tolist() for split, labels in found.items()}, where)
    indices = {split: labels.astype(np.int64) for split, labels in found.items()}
    n_classes = some.shape[1] if some.ndim == 2 else 1 + max(int(y.max(initial=NO_LABEL)) for y in indices.values())
    if names and (len(names) < n_classes or (some.ndim == 2 and len(names) != n_classes)):
        raise InputError(f"classes in {path!r} has {len(names)} names, but the labels need {n_classes}")
    return indices, names or [str(label) for label in range(n_classes)]


def _labels(loaded: Mapping[str, npt.NDArray[Any]], split: str, path: str) -> npt.NDArray[Any]:
    """Return the labels of a split: (n,) class indices or names, or (n, classes) of 0 and 1."""
    labels = loaded.get(f"y_{split}")
    n_images = len(loaded[f"x_{split}"])
    if labels is not None and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    kinds = "iuU" if labels is not None and labels.ndim == 1 else "iu"
    if labels is None or labels.ndim not in (1, 2) or len(labels) != n_images or labels.dtype.kind not in kinds:
        found = "nothing" if labels is None else f"{labels.dtype} {labels.shape}"
        raise InputError(f"y_{split} in {path!r}: expected {n_images} labels, integers or text, found {found}")
    if labels.dtype.kind == "U":
        return labels
    expected, least, most = f"(n,) class indices from 0, or {NO_LABEL} for no label", NO_LABEL, MAX_CLASSES - 1
    if labels.ndim == 2:
        expected, least, most = "(n, classes) of 0 and 1", 0, 1
    if labels.size and not (labels.min() >= least and labels.max() <= most):
        raise InputError(
            f"y_{split} in {path!r}: expected {expected}, found {labels.shape} from {labels.min()} to {labels.max()}"
        )
    return labels


def _class_names(loaded: Mapping[str, npt.NDArray[Any]], path: str) -> list[str]:
    names = loaded.get(CLASSES, np.empty(0, dtype="U1"))
    if names.ndim != 1 or (names.size and names.dtype.kind not in "iuU"):
        raise InputError(f"{CLASSES} in {path!r} is {names.dtype} {names.shape}; expected text (classes,)")
    return [str(name) for name in names]
