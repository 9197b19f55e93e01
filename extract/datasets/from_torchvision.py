"""`torchvision:NAME[?root=FOLDER&download=true&splits=…]`: published data sets, through torchvision's readers.

`published.py` reads the data sets that torchvision lacks. The default splits are those that papers on probing report.
If a data set has more, `splits` names the wanted ones.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torchvision import datasets
from xxhash import xxh3_128

from ...errors import InputError, MissingError, unknown_name
from .contract import ImageList
from .files import file_size, read_image
from .options import absolute, join_options, split_options
from .published import CUB200, Sun397Partition

OPTIONS = ("root", "download", "splits")
ROOT = "data"
"""Default root of the data sets, in the working folder."""


@dataclass(frozen=True)
class Published:
    """The reader of one data set.

    Attributes:
        reader: class that takes root, the keywords of a split, download, and loader if it reads files.
        splits: keywords of each split.
        default: splits to read unless the spec names others; empty means all.
        downloads: whether the reader can download the data set.
    """

    reader: type[Any]
    splits: Mapping[str, Mapping[str, Any]]
    default: tuple[str, ...] = ()
    downloads: bool = True


def _by_name(*splits: str, **other: str) -> dict[str, dict[str, Any]]:
    """Return keywords for splits with the same name in a reader, and for pairs `ours="theirs"`."""
    return {ours: {"split": theirs} for ours, theirs in ({name: name for name in splits} | other).items()}


CIFAR: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
PUBLISHED: dict[str, Published] = {
    "ImageNet": Published(datasets.ImageNet, _by_name("train", "val"), downloads=False),
    "CIFAR10": Published(datasets.CIFAR10, CIFAR),
    "CIFAR100": Published(datasets.CIFAR100, CIFAR),
    "Places365": Published(
        datasets.Places365,
        {"train": {"split": "train-standard", "small": True}, "val": {"split": "val", "small": True}},
    ),
    "StanfordCars": Published(datasets.StanfordCars, _by_name("train", "test"), downloads=False),
    "Food101": Published(datasets.Food101, _by_name("train", "test")),
    "FGVCAircraft": Published(
        datasets.FGVCAircraft, _by_name("train", "val", "trainval", "test"), default=("train", "val")
    ),
    "SUN397": Published(Sun397Partition, _by_name(train="Training_01", test="Testing_01")),
    "DTD": Published(datasets.DTD, _by_name("train", "val", "test"), default=("train", "val")),
    "OxfordIIITPet": Published(datasets.OxfordIIITPet, _by_name("test", train="trainval")),
    "CUB200": Published(CUB200, _by_name("train", "test")),
    "STL10": Published(datasets.STL10, _by_name("train", "test")),
    "Flowers102": Published(datasets.Flowers102, _by_name("train", "val", "test")),
}
ARRAYS = (datasets.CIFAR10, datasets.STL10)
"""Readers that hold pixels instead of files."""


class TorchvisionImages:
    """One published data set."""

    upright = False

    def __init__(self, argument: str) -> None:
        """Open one split, to check that the data set is there.

        Raises:
            InputError: no such data set, option or split, or a package that the reader needs is missing.
            MissingError: the data set is not in the root, or is incomplete.
        """
        name, options = split_options("torchvision", argument, OPTIONS)
        known = {each.lower(): each for each in PUBLISHED}
        if name.lower() not in known:
            raise unknown_name("torchvision data set", name, PUBLISHED)
        self._name = known[name.lower()]
        self._published = PUBLISHED[self._name]
        self._root = absolute(options.get("root", ROOT))
        self._download = _truth(options.get("download", "false"))
        self.name = f"torchvision:{self._name}"
        self.spec = "torchvision:" + join_options(self._name, options | {"root": self._root})
        self.splits: Sequence[str] = sorted({*_wanted_splits(self._published, options, self.name)})
        self._opened: dict[str, Any] = {}
        self._ids: dict[str, list[str]] = {}
        self.classes: Sequence[str] = _class_names(self._open(self.splits[-1]))

    def images(self, split: str) -> ImageList:
        """List a split in the reader's order; ids are paths below the root, or positions.

        Raises:
            InputError: its classes differ from those of another split.
            MissingError: the split is not in the root, or is incomplete.
        """
        opened = self._open(split)
        if _class_names(opened) != self.classes:
            differing = sorted(set(_class_names(opened)) ^ set(self.classes))[:1]
            raise InputError(
                f"split {split!r} of {self.spec!r} has other classes than {self.splits[-1]!r}"
                + (f", such as {differing[0]!r}; " if differing else " or another order; ")
                + "put the whole data set there, or read its class folders as folder:PATH"
            )
        if isinstance(opened, ARRAYS):
            return _list_arrays(split, opened)
        paths, labels = _files(opened)
        if labels.size and not (labels.min() >= 0 and labels.max() < len(self.classes)):
            raise InputError(
                f"split {split!r} of {self.spec!r} has labels from {labels.min()} to {labels.max()}, but only "
                f"{len(self.classes)} classes; put the data set there as distributed"
            )
        self._ids[split] = [os.path.relpath(path, self._root) for path in paths]
        content = xxh3_128()
        for key, label in zip(self._ids[split], labels, strict=True):
            content.update(f"{key} {file_size(os.path.join(self._root, key))} {label}\n".encode())
        return ImageList(self._ids[split], labels, content.hexdigest())

    def load(self, split: str, index: int) -> Image.Image:
        """Decode one image."""
        opened = self._opened[split]
        if isinstance(opened, ARRAYS):
            image: Image.Image = opened[index][0]
            return image
        return read_image(os.path.join(self._root, self._ids[split][index]))

    def _open(self, split: str) -> Any:
        if split not in self._opened:
            self._opened[split] = self._read(dict(self._published.splits[split]))
        return self._opened[split]

    def _read(self, keywords: dict[str, Any]) -> Any:
        if self._published.downloads:
            keywords["download"] = self._download
        if not issubclass(self._published.reader, (*ARRAYS, datasets.OxfordIIITPet)):
            keywords["loader"] = str  # paths instead of pixels
        try:
            return self._published.reader(self._root, **keywords)
        except ImportError as error:
            package = str(error.name).partition(".")[0]
            raise InputError(f"{self.name} needs the package {package}: pip install {package}") from error
        except Exception as error:  # each reader has its own errors for missing and damaged files
            or_fetch = ", or add download=true" if self._published.downloads and not self._download else ""
            raise MissingError(
                f"cannot open {self.name} in {self._root!r} ({' '.join(str(error).split()) or type(error).__name__}); "
                f"put it there as distributed, or give another ?root=FOLDER{or_fetch}"
            ) from error


def without_download(argument: str) -> str:
    """Return an argument that names the same data and downloads nothing."""
    name, options = split_options("torchvision", argument, OPTIONS)
    return join_options(name, {key: value for key, value in options.items() if key != "download"})


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise unknown_name("value of download", text, ("true", "false"))
    return text == "true"


def _wanted_splits(published: Published, options: Mapping[str, str], name: str) -> Sequence[str]:
    if "splits" not in options:
        return published.default or list(published.splits)
    wanted = options["splits"].split(",")
    for split in wanted:
        if split not in published.splits:
            raise unknown_name(f"split of {name}", split, published.splits)
    return wanted


def _class_names(opened: Any) -> list[str]:
    """Return class names by label; ImageNet has several names per class."""
    return [name if isinstance(name, str) else ", ".join(name) for name in opened.classes]


def _list_arrays(split: str, opened: Any) -> ImageList:
    labels = np.asarray(opened.labels if isinstance(opened, datasets.STL10) else opened.targets, dtype=np.int64)
    content = xxh3_128(np.ascontiguousarray(opened.data).data)
    content.update(labels.tobytes())
    return ImageList([f"{split}/{index:06d}" for index in range(len(labels))], labels, content.hexdigest())


def _files(opened: Any) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the path and the label of each image."""
    if isinstance(opened, datasets.OxfordIIITPet):  # the only reader without a keyword for its loader
        paths, labels = opened._images, opened._labels
    else:
        paths, labels = zip(*(opened[index] for index in range(len(opened))), strict=True)
    return [str(path) for path in paths], np.asarray(labels, dtype=np.int64)
