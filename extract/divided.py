"""`--split-fraction`: data with one split, divided into train and test."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image
from xxhash import xxh3_128

from ..errors import InputError
from .datasets import ImageList, ImageSource
from .rows import class_of_each, random_keys

TRAIN, TEST = "train", "test"


class DividedSource:
    """A source whose only split is divided into two by a seed, stratified by class.

    A class with c images has round(c · fraction) of them in test: at least one and at most c - 1. The seed, the image's
    id and the other images of its class decide where an image goes. With several labels per image, all images count as
    one class.
    """

    def __init__(self, source: ImageSource, fraction: float, seed: int) -> None:
        """Divide the split of a source.

        Args:
            source: source with one split.
            fraction: part of its images that goes to test, between 0 and 1.
            seed: seed of the draw.

        Raises:
            InputError: the source has splits of its own.
        """
        if len(source.splits) != 1:
            raise InputError(
                f"split_fraction {fraction} needs data with one split, but {source.spec!r} has the splits "
                f"{', '.join(source.splits)}; leave out --split-fraction"
            )
        self._source, self._fraction, self._seed = source, fraction, seed
        self.name, self.spec, self.upright = source.name, source.spec, source.upright
        self.splits: Sequence[str] = [TEST, TRAIN]

    @property
    def classes(self) -> Sequence[str]:
        """Class names by label."""
        return self._source.classes

    def images(self, split: str) -> ImageList:
        """List one of the two splits, in the source's order."""
        whole, index = self._whole, self._index[split]
        content = xxh3_128(f"{whole.content} {split} {self._fraction} {self._seed}".encode())
        return ImageList([whole.ids[i] for i in index], whole.labels[index], content.hexdigest())

    def load(self, split: str, index: int) -> Image.Image:
        """Read one image."""
        return self._source.load(self._source.splits[0], int(self._index[split][index]))

    @cached_property
    def _whole(self) -> ImageList:
        return self._source.images(self._source.splits[0])

    @cached_property
    def _index(self) -> dict[str, npt.NDArray[np.int64]]:
        """Return the sorted positions of each split's images in the whole list."""
        held = np.zeros(len(self._whole.ids), dtype=bool)
        keys = random_keys(self._whole.ids, self._seed)
        labels = class_of_each(self._whole.labels)
        for label in np.unique(labels):
            of_class = np.flatnonzero(labels == label)
            n_test = min(max(1, round(len(of_class) * self._fraction)), len(of_class) - 1)
            held[of_class[np.argsort(keys[of_class], kind="stable")[:n_test]]] = True
        return {TRAIN: np.flatnonzero(~held), TEST: np.flatnonzero(held)}
