"""The contract of data sources: for each split a list of images with stable ids and labels."""

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
        labels: (n,) int64 class indices, or (n, classes) int64 of 0 and 1 if an image may be of several classes.
        content: hash that changes when an image or a label does: of sizes for files, of bytes for arrays.
    """

    ids: Sequence[str]
    labels: npt.NDArray[np.int64]
    content: str


class ImageSource(Protocol):
    """A data set. Instances travel to worker processes.

    Attributes:
        name: short name without folders, such as "folder:imagenet".
        spec: opens the same data in any working folder, such as "folder:/data/imagenet".
        splits: names of the splits it has.
        upright: whether it turns images as the orientation in their EXIF says, as its own loader does.
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
        """Read one image; whatever makes it unreadable is raised as it comes."""
