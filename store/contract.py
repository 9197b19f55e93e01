"""What a store format is: where its files are, and how what is small in them is read and written.

Tokens themselves are written by `block_file.py` and read by `reader.py`, the same for every format: a block
file is a header, then the rows of one block of one array, one after the other.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ..errors import StoreError
from .layout import CHANNELS, SCALE, array_name, layer_index
from .manifest import Manifest
from .quantize import DTYPES, TokenType, array_type

LABELS, IDS = "labels", "ids"
ROOT_RECORD = "manifest"
"""Name of the root file in the journal, whatever the store is called."""
MANIFEST_KEYS = {"format", "fingerprints"}
"""Keys by which a manifest is known from other attributes."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of tokens, means or scales.

    Attributes:
        name: such as "train/layer_05/patch".
        n_views: views of its split.
        n_images: rows of its split.
        block_rows: rows in a block.
        row: shape of one row.
        type: how its values are stored.
    """

    name: str
    n_views: int
    n_images: int
    block_rows: int
    row: tuple[int, ...]
    type: TokenType

    @property
    def n_blocks(self) -> int:
        """Blocks of one view."""
        return -(-self.n_images // self.block_rows)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return prod(self.row) * self.type.stored.itemsize

    @property
    def block_bytes(self) -> int:
        """Bytes of the rows in a block file: a file always has room for `block_rows` rows."""
        return self.block_rows * self.row_bytes

    def scale(self) -> "ArraySpec":
        """Return the array of the scales of int8 tokens."""
        return replace(self, name=self.name + SCALE, row=self.row[:1], type=DTYPES["float16"])

    @property
    def is_bfloat16(self) -> bool:
        """Whether the stored integers are the bits of bfloat16 values."""
        return self.type.name == "bfloat16"


def array_spec(manifest: Manifest, split: str, layer: str, kind: str) -> ArraySpec:
    """Return the shape and type of one array that comes in blocks."""
    info = manifest.splits[split]
    return ArraySpec(
        array_name(split, layer, kind),
        info.views,
        info.n_images,
        info.block_rows,
        manifest.shape(layer_index(layer)).row_shape(kind),
        array_type(kind, manifest.recipe.dtype),
    )


def array_specs(manifest: Manifest) -> Iterator[ArraySpec]:
    """Yield every array that comes in blocks, in the same order however the manifest came about."""
    for split, info in sorted(manifest.splits.items()):
        for layer, kinds in sorted(info.layers.items()):
            for kind in sorted(kinds):
                yield array_spec(manifest, split, layer, kind)


class StoreFiles(ABC):
    """The files of one store.

    Attributes:
        path: what the user calls the store.
        folder: where block files, journal and lock are; paths in the journal are relative to it.
        root: the file that holds the manifest.
    """

    def __init__(self, path: Path, folder: Path, root: Path) -> None:
        self.path, self.folder, self.root = path, folder, root

    @abstractmethod
    def block_name(self, spec: ArraySpec, view: int, block: int) -> str:
        """Return the path, relative to the folder, of one block of an array."""

    @abstractmethod
    def block_header(self, spec: ArraySpec) -> bytes:
        """Return the bytes before the rows in each block file of an array."""

    @abstractmethod
    def block_offset(self, spec: ArraySpec) -> int:
        """Return how many bytes come before the rows."""

    @abstractmethod
    def whole_names(self, array: str) -> list[str]:
        """Return the relative paths of the files of a small array that is written at once."""

    @abstractmethod
    def write_whole(self, array: str, values: npt.NDArray[Any] | list[str]) -> None:
        """Write a small array, such as "train/labels", durably."""

    @abstractmethod
    def read_whole(self, array: str) -> npt.NDArray[Any]:
        """Read a small array.

        Raises:
            StoreError: it is not there.
        """

    @abstractmethod
    def read_attributes(self) -> dict[str, Any]:
        """Return the manifest as JSON values, or {} if there is none.

        Raises:
            StoreError: it is damaged.
        """

    @abstractmethod
    def root_bytes(self, manifest: Manifest) -> bytes:
        """Return the content of the root file, a function of the manifest alone."""

    @abstractmethod
    def metadata_names(self, manifest: Manifest) -> list[str]:
        """Return the relative paths of files that hold nothing but metadata, the root apart."""

    @abstractmethod
    def write_metadata(self, manifest: Manifest) -> None:
        """Write those files."""

    def exists(self) -> bool:
        """Whether there is a store here."""
        return self.read_attributes().keys() >= MANIFEST_KEYS

    def read_manifest(self) -> Manifest:
        """Read the manifest.

        Raises:
            StoreError: not a store, or one of another format version.
        """
        attributes = self.read_attributes()
        if not attributes.keys() >= MANIFEST_KEYS:
            raise StoreError(
                f"{str(self.path)!r} is not a token store: it has no manifest; make one with probe extract"
            )
        return Manifest.from_json(attributes)

    def specs(self, manifest: Manifest) -> Iterator[ArraySpec]:
        """Yield every array that comes in blocks, in the same order however the manifest came about."""
        return array_specs(manifest)

    def block_names(self, spec: ArraySpec) -> Iterator[str]:
        """Yield the relative path of every block file of an array."""
        for view, block in product(range(spec.n_views), range(spec.n_blocks)):
            yield self.block_name(spec, view, block)

    def whole_arrays(self, manifest: Manifest) -> list[str]:
        """Return the names of all small arrays: labels, ids, and the channel statistics of int8 tokens."""
        rows = [f"{split}/{name}" for split in sorted(manifest.splits) for name in (LABELS, IDS)]
        tokens = [spec.name for spec in self.specs(manifest) if spec.type.name == "int8"]
        return rows + [name + CHANNELS for name in tokens]

    def declared(self, manifest: Manifest) -> set[str]:
        """Return the relative path of every file of a complete store, but for root, journal and lock."""
        names = set(self.metadata_names(manifest))
        names.update(name for array in self.whole_arrays(manifest) for name in self.whole_names(array))
        names.update(name for spec in self.specs(manifest) for name in self.block_names(spec))
        return names


def encode_manifest(manifest: Manifest) -> str:
    """Return the manifest as JSON text that is the same for the same manifest."""
    return json.dumps(manifest.to_json(), indent=1, sort_keys=True)


def damaged(path: Path, error: Exception) -> StoreError:
    """Make the error for a root file that cannot be read."""
    return StoreError(
        f"{str(path)!r} is damaged, or no store ({error}); mend it with probe verify --repair, or give another path"
    )


def missing(path: Path) -> StoreError:
    """Make the error for a small array that is not there."""
    return StoreError(f"{str(path)!r} is not whole; run the same probe extract again")
