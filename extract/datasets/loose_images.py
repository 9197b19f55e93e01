"""Images without labels: a file, or all image files below a folder. Extraction cannot use them: a store has labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from xxhash import xxh3_128

from ...errors import InputError, MissingError
from .contract import ImageList
from .files import EXTENSIONS, entry_name, file_size, image_files, read_image
from .options import absolute

SPLIT = "images"


class LooseImages:
    """The images at a path, sorted by name: one split, "images"; ids are paths below the folder; every label is 0."""

    upright = False

    def __init__(self, path: str) -> None:
        """Find the images.

        Raises:
            MissingError: nothing at `path`.
            InputError: a folder without images, or a name that is not UTF-8.
        """
        given = Path(path)
        if not path or not given.exists():
            raise MissingError(f"nothing at {path!r}; expected an image or a folder of images there")
        self._folder = given if given.is_dir() else given.parent
        found = image_files(given)[0] if given.is_dir() else [(entry_name(given), file_size(path))]
        if not found:
            raise InputError(f"folder {path!r} holds no images ({', '.join(EXTENSIONS)})")
        self.name, self.spec = given.resolve().name, absolute(path)
        self.splits: Sequence[str] = [SPLIT]
        self.classes: Sequence[str] = []
        self._files, self._sizes = zip(*found, strict=True)

    def images(self, split: str) -> ImageList:
        """List all images."""
        listed = "".join(f"{file} {size}\n" for file, size in zip(self._files, self._sizes, strict=True))
        labels = np.zeros(len(self._files), dtype=np.int64)
        return ImageList(self._files, labels, xxh3_128(listed.encode()).hexdigest())

    def load(self, split: str, index: int) -> Image.Image:
        """Decode one image."""
        return read_image(str(self._folder / self._files[index]))
