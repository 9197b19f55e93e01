"""`npz:FILE`: arrays `x_SPLIT` uint8 (n, H, W[, 3]) and `y_SPLIT`, optionally `classes`. Held in memory.

`y_SPLIT` is (n,) class indices, or (n, classes) of 0 and 1 where an image may be of several.
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
from .classes import MAX_CLASSES
from .contract import ImageList
from .options import absolute

DEMO_FILE = "fashion_mnist_7k.npz"


class NpzImages:
    """Images in one .npz file. Grey images become RGB by repetition, in the transform."""

    def __init__(self, path: str) -> None:
        """Read the file.

        Raises:
            MissingError: no such file.
            InputError: it is not an .npz of the form above.
        """
        if not Path(path).is_file():
            raise MissingError(f"no file at {path!r}; asked for images in an .npz there")
        self.name = f"npz:{Path(path).name}"
        self.spec = f"npz:{absolute(path)}"
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                loaded = {name: np.asarray(arrays[name]) for name in arrays.files}
        except Exception as error:  # zipfile, zlib and numpy each have their own ways to fail on damaged bytes
            raise InputError(f"{path!r} is not a readable .npz file: {error or type(error).__name__}") from error
        self.splits: Sequence[str] = sorted(name[2:] for name in loaded if name.startswith("x_"))
        if not self.splits:
            raise InputError(f"{path!r} holds no arrays x_SPLIT; it has {', '.join(sorted(loaded)) or 'nothing'}")
        self._pixels = {split: loaded[f"x_{split}"] for split in self.splits}
        for split, pixels in self._pixels.items():
            if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] != 3):
                raise InputError(
                    f"x_{split} in {path!r} is {pixels.dtype} {pixels.shape}; expected uint8 (n, H, W) or (n, H, W, 3)"
                )
        self._labels = {split: _labels(loaded, split, path) for split in self.splits}
        shapes = {labels.shape[1:] for labels in self._labels.values()}
        if len(shapes) > 1:
            found = ", ".join(f"y_{split} {labels.shape}" for split, labels in self._labels.items())
            raise InputError(f"labels of the splits of {path!r} have other shapes ({found}); expected the same classes")
        n_classes = max(_n_classes(labels) for labels in self._labels.values())
        names = [str(name) for name in loaded.get("classes", [])]
        if names and (len(names) < n_classes or (shapes != {()} and len(names) != n_classes)):
            raise InputError(f"classes in {path!r} has {len(names)} names, and the labels need {n_classes}")
        self.classes: Sequence[str] = names or [str(label) for label in range(n_classes)]

    def images(self, split: str) -> ImageList:
        """List a split; ids are positions in the file's arrays."""
        labels = self._labels[split]
        content = xxh3_128(str(self._pixels[split].shape).encode())
        content.update(np.ascontiguousarray(self._pixels[split]).data)
        content.update(labels.tobytes() if labels.ndim == 1 else f"{labels.shape}".encode() + labels.tobytes())
        return ImageList([f"{split}/{index:06d}" for index in range(len(labels))], labels, content.hexdigest())

    def load(self, split: str, index: int) -> Image.Image:
        """Return one image."""
        return Image.fromarray(self._pixels[split][index])


def open_demo(argument: str) -> NpzImages:
    """Open the bundled images, a part of Fashion-MNIST: `demo`."""
    if argument:
        raise InputError(f"the data set 'demo' takes no argument, got {argument!r}")
    source = NpzImages(str(files("tokenprobe") / "assets" / DEMO_FILE))
    source.name = source.spec = "demo"
    return source


def _labels(loaded: Mapping[str, npt.NDArray[Any]], split: str, path: str) -> npt.NDArray[np.int64]:
    labels = loaded.get(f"y_{split}")
    n_images = len(loaded[f"x_{split}"])
    if labels is None or labels.ndim not in (1, 2) or len(labels) != n_images or labels.dtype.kind not in "iu":
        found = "nothing" if labels is None else f"{labels.dtype} {labels.shape}"
        raise InputError(f"y_{split} in {path!r}: expected {n_images} integer labels, found {found}")
    expected, most = ("class indices from 0", MAX_CLASSES - 1) if labels.ndim == 1 else ("0 and 1 for each class", 1)
    if labels.size and not (labels.min() >= 0 and labels.max() <= most):
        raise InputError(f"y_{split} in {path!r}: expected {expected}, found {labels.min()} to {labels.max()}")
    return labels.astype(np.int64)


def _n_classes(labels: npt.NDArray[np.int64]) -> int:
    return labels.shape[1] if labels.ndim == 2 else 1 + int(labels.max(initial=-1))
