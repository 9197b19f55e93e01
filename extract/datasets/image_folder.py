"""`folder:PATH`: PATH/SPLIT/CLASS/image files, or PATH/CLASS/image files as one split named train.

Images may lie at any depth below their class, so nested folders can be splits or classes. They are splits if one has
the name of a split. Otherwise their content decides, and a warning tells the user.
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image
from xxhash import xxh3_128

from ...errors import InputError, MissingError
from .classes import class_name
from .contract import ImageList
from .files import EXTENSIONS, entry_name, image_files, read_image, tell_left_out, visible
from .options import absolute

logger = logging.getLogger(__name__)

SPLIT_NAME = re.compile("train|val|test|dev|eval", re.IGNORECASE)
"""Common beginnings of the names of splits."""


class ImageFolder:
    """A folder of class folders. Classes are the sorted names over all splits, so labels agree between splits."""

    upright = False

    def __init__(self, path: str) -> None:
        """List the splits and classes.

        Raises:
            MissingError: no such folder.
            InputError: no class folders in it.
        """
        root = Path(path)
        if not path or not root.is_dir():
            raise MissingError(f"no folder at {path!r}; expected class folders of images there")
        self.name = f"folder:{root.resolve().name}"
        self.spec = f"folder:{absolute(path)}"
        below = {name: _subfolders(root / name) for name in _subfolders(root)}
        nested = _splits(root, {name: inner for name, inner in below.items() if inner})
        self._flat = [name for name in below if nested and name not in nested and _has_images(root / name)]
        self._roots = {name: root / name for name in [*nested, *self._flat]} if nested else {"train": root}
        self.splits: Sequence[str] = sorted(self._roots)
        found = [name for folder in self._roots.values() for name in _subfolders(folder)]
        self.classes: Sequence[str] = sorted({class_name(name) for name in found})
        if not self.classes:
            raise InputError(
                f"folder {path!r} holds no class folders; expected PATH/SPLIT/CLASS/images or PATH/CLASS/images"
            )
        self._files: dict[str, list[str]] = {}

    def images(self, split: str) -> ImageList:
        """List the images of a split, class by class, each class by name.

        Raises:
            InputError: a class folder is empty, or there are images where class folders should be.
        """
        if split in self._flat:
            raise InputError(
                f"split folder {str(self._roots[split])!r} holds images but no class folders; expected either "
                "PATH/SPLIT/CLASS/images or PATH/CLASS/images; name other splits with --split to leave it out"
            )
        label_of = {name: label for label, name in enumerate(self.classes)}
        files: list[str] = []
        labels: list[int] = []
        content, left_out = xxh3_128(), _loose_images(self._roots[split])
        for name in _subfolders(self._roots[split]):
            found, others = image_files(self._roots[split] / name)
            left_out += [f"{name}/{file}" for file in others]
            if not found:
                raise InputError(
                    f"class folder {str(self._roots[split] / name)!r} holds no images ({', '.join(EXTENSIONS)}); "
                    "remove it or fill it"
                )
            for file, size in found:
                files.append(f"{name}/{file}")
                labels.append(label_of[class_name(name)])
                content.update(f"{name}/{file} {size}\n".encode())
        tell_left_out(left_out, str(self._roots[split]))
        self._files[split] = files
        return ImageList(files, np.array(labels, dtype=np.int64), content.hexdigest())

    def load(self, split: str, index: int) -> Image.Image:
        """Decode one image."""
        return read_image(str(self._roots[split] / self._files[split][index]))


def _splits(root: Path, nested: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the folders that are splits; if no name decides, warn the user about the choice.

    Args:
        root: folder of the data.
        nested: for each folder that holds folders, their names.
    """
    if any(map(SPLIT_NAME.match, nested)) or not nested:
        return list(nested)
    shared = [name for name, n in Counter(chain.from_iterable(nested.values())).items() if n > 1]
    has_images = any(_has_images(root / name) for name in nested)
    if has_images or (len(nested) > 1 and not shared):
        why = "some hold images beside folders" if has_images else "no two hold folders of the same name"
        logger.warning(
            f"folders of {str(root)!r} are classes, with images at any depth: none is named like a split, and {why}"
        )
        return []
    logger.warning(
        f"folders of {str(root)!r} are splits: {', '.join(map(repr, sorted(nested)))}; if they are classes, move them "
        "into a folder train"
    )
    return list(nested)


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry_name(entry) for entry in visible(folder) if entry.is_dir())


def _has_images(folder: Path) -> bool:
    return bool(_loose_images(folder))


def _loose_images(folder: Path) -> list[str]:
    """Return the image files that lie in a folder itself."""
    return sorted(entry.name for entry in visible(folder) if entry.name.lower().endswith(EXTENSIONS))
