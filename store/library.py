"""Stores that are compressed or far away, read through the zarr library: slower, the same numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MissingError, StoreError
from .contract import MANIFEST_KEYS, ArraySpec, damaged
from .extents import Part
from .layout import CHANNELS
from .manifest import Manifest


def is_address(path: str) -> bool:
    """Whether a store's name is an address such as "s3://bucket/a.zarr" and not a path."""
    return "://" in path


def is_compressed(path: Path) -> bool:
    """Whether the blocks of a Zarr store on this machine have codecs beside the plain one.

    Raises:
        StoreError: the metadata of an array are damaged.
    """
    for metadata in path.glob("*/layer_*/*/zarr.json"):
        if metadata.parent.name.endswith(CHANNELS):
            continue  # written at once, and never compressed
        try:
            return [codec["name"] for codec in json.loads(metadata.read_bytes())["codecs"]] != ["bytes"]
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(metadata, error) from error
    return False


class LibraryReader:
    """Reads a Zarr store with zarr, from a path or an address that fsspec knows."""

    def __init__(self, path: str) -> None:
        """Open the root group.

        Raises:
            MissingError: there is nothing.
            StoreError: there is no token store.
        """
        import zarr

        try:
            self._group = zarr.open_group(path, mode="r")
        except FileNotFoundError as error:
            raise MissingError(f"no store at {path!r}") from error
        except (ImportError, ValueError) as error:
            raise StoreError(f"cannot open {path!r}: {error}") from error
        self._path = path
        if not self._group.attrs.keys() >= MANIFEST_KEYS:
            raise StoreError(f"{path!r} is not a token store: it has no manifest; make one with probe extract")

    def read_manifest(self) -> Manifest:
        """Return the manifest."""
        return Manifest.from_json(dict(self._group.attrs))

    def read_whole(self, array: str) -> npt.NDArray[Any]:
        """Return a small array, such as "train/labels".

        Raises:
            StoreError: it is not there; zarr would give its fill value.
        """
        stored = self._array(array)
        self._require_chunk(array, stored, (0,) * stored.ndim)
        return np.asarray(stored[...])

    def read_part(self, spec: ArraySpec, view: int, part: Part, out: npt.NDArray[Any]) -> None:
        """Read rows of one block into their places of `out`, in the stored type.

        Raises:
            StoreError: the block's chunk is not there.
        """
        array = self._array(spec.name)
        self._require_chunk(spec.name, array, (view, part.block, *[0] * len(spec.row)))
        start = part.block * spec.block_rows
        first, last = int(part.rows[0]), int(part.rows[-1])
        out[part.places] = array[view, start + first : start + last + 1][part.rows - first]

    def _require_chunk(self, name: str, array: Any, place: tuple[int, ...]) -> None:
        from zarr.core.sync import sync

        chunk = f"{name}/{array.metadata.encode_chunk_key(place)}"
        if not sync((self._group.store_path / chunk).exists()):
            raise StoreError(f"block file {chunk!r} of {self._path!r} is not there")

    def _array(self, name: str) -> Any:
        try:
            return self._group[name]
        except KeyError:
            raise StoreError(f"array {name!r} of {self._path!r} is not there") from None
