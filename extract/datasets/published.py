"""Readers of published data sets that torchvision cannot read, or not with their published splits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchvision.datasets import SUN397
from torchvision.datasets.utils import download_and_extract_archive

from ...errors import MissingError


class ListedImages:
    """Images with known paths and labels, by index, like torchvision's data sets.

    Attributes:
        classes: names, by label.
    """

    def __init__(self, images: list[tuple[str, int]], classes: list[str], loader: Callable[[str], Any]) -> None:
        """Take (path, label) of each image, and a function that reads a path."""
        self._images, self.classes, self._loader = images, classes, loader

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self._images[index]
        return self._loader(path), label


class CUB200(ListedImages):
    """Caltech-UCSD Birds 200 (2011): ROOT/CUB_200_2011 with images.txt, train_test_split.txt and its other lists."""

    url = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
    md5 = "97eceeb196236b17998738112f37df78"

    def __init__(self, root: str, split: str, download: bool, loader: Callable[[str], Any]) -> None:
        """Read the lists of the split "train" or "test"."""
        folder = Path(root) / "CUB_200_2011"
        if download and not folder.is_dir():
            download_and_extract_archive(self.url, root, md5=self.md5)
        names, labels, in_train, classes = (
            dict(line.split(maxsplit=1) for line in (folder / f"{name}.txt").read_text().splitlines())
            for name in ("images", "image_class_labels", "train_test_split", "classes")
        )
        wanted = "1" if split == "train" else "0"
        chosen = [number for number in names if in_train[number] == wanted]
        images = [(str(folder / "images" / names[number]), int(labels[number]) - 1) for number in chosen]
        super().__init__(images, [classes[number] for number in sorted(classes, key=int)], loader)


class Sun397Partition(ListedImages):
    """The first of ten published partitions of SUN397: ROOT/SUN397, and Training_01.txt and Testing_01.txt in it."""

    url = "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip"
    md5 = "29a205c0a0129d21f36cbecfefe81881"

    def __init__(self, root: str, split: str, download: bool, loader: Callable[[str], Any]) -> None:
        """Read the list "Training_01" or "Testing_01".

        Raises:
            MissingError: the list does not exist.
        """
        folder = Path(root) / "SUN397"
        if download and not folder.is_dir():
            SUN397(root, download=True)
        if download and not (folder / f"{split}.txt").is_file():
            download_and_extract_archive(self.url, str(folder), md5=self.md5)
        lists = [place / f"{split}.txt" for place in (folder, folder.parent) if (place / f"{split}.txt").is_file()]
        if not lists:
            raise MissingError(
                f"no list {split}.txt in {str(folder)!r} or beside it; it is in Partitions.zip, {self.url}"
            )
        classes = [_class_of(line) for line in (folder / "ClassName.txt").read_text().splitlines()]
        label_of = {name: label for label, name in enumerate(classes)}
        names = [name for name in lists[0].read_text().splitlines() if name]
        images = [(f"{folder}{name}", label_of[_class_of(name.rpartition("/")[0])]) for name in names]
        super().__init__(images, classes, loader)


def _class_of(folder: str) -> str:
    """Return the class of "/a/abbey" or "/a/apse/indoor": the part after the first letter."""
    return folder.strip()[3:]
