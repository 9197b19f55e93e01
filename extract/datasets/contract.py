"""The contract of data sources: one list of images per split, with stable ids and labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image


@dataclass(frozen=True)
class ImageList:
    """The images of one split, in the source's own order.

    Attributes:
        ids: stable keys, such as paths relative to the split's folder.
        labels: (n,) int64 class indices, or (n, classes) int64 of 0 and 1 if an image may have several classes.
        content: hash that changes with any image or label. It covers the sizes of files and the bytes of arrays.
    """

    ids: Sequence[str]
    labels: npt.NDArray[np.int64]
    content: str


class ImageSource(Protocol):
    """A data set. Instances travel to worker processes.

    Attributes:
        name: short name without folders, such as "folder:imagenet".
        spec: spec that opens the same data from any working folder, such as "folder:/data/imagenet".
        splits: names of its splits.
        upright: whether images are turned upright by their EXIF orientation, as the data's own loader does.
    """

    name: str
    spec: str
    splits: Sequence[str]
    upright: bool

    @property
    def classes(self) -> Sequence[str]:
        """Class names by label, the same for all splits; known once a split is listed."""

    def images(self, split: str) -> ImageList:
        """List one split."""

    def load(self, split: str, index: int) -> Image.Image:
        """Read one image. Decoding errors are raised unchanged."""
