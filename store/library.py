"""Reading compressed stores, and remote ones of another layout, through the zarr library: slower, the same numbers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import StoreError
from ..runtime.address import redacted
from ..runtime.text import printable
from .array_spec import ArraySpec
from .contract import StoredArrays, StoreFiles
from .extents import Part
from .objects import Place

MOST_SPARSE = 2
"""Rows between the first and the last, per row asked for, up to which all of them are decompressed together."""


class LibraryReader(StoredArrays):
    """Reads a Zarr store with zarr, from an address.

    The store cannot be written. Only its manifest says whether it is complete: a block that was never written is
    noticed when it is read.
    """

    form = "Zarr at an address, not in our layout: read through the zarr library"
    whole_blocks = True

    def __init__(self, files: StoreFiles) -> None:
        """Open the root group; `files` are the store's.

        Raises:
            StoreError: zarr cannot open it.
        """
        import zarr

        self.path, self._files = files.path, files
        try:
            self._group = zarr.open_group(_zarr_store(files.folder), mode="r")
        except Exception as error:  # zarr and what it opens raise errors of every kind
            raise StoreError(f"cannot open {str(files.path)!r}: {_said(error)}") from error

    def read_attributes(self) -> dict[str, Any]:
        """See `StoredArrays.read_attributes`: zarr would keep those that it saw first."""
        return self._files.read_attributes()

    @property
    def root_name(self) -> str:
        """See `StoredArrays.root_name`."""
        return self._files.root_name

    def remedy(self, file: str) -> str:
        """See `StoredArrays.remedy`."""
        return "copy it there again"

    def read_whole(self, array: str) -> npt.NDArray[Any]:
        """See `StoredArrays.read_whole`; zarr would give its fill value for a missing chunk."""
        with self._reading(array):
            stored = self._array(array)
            self._require_chunk(array, stored, (0,) * stored.ndim)
            return np.asarray(stored[...])

    def read_rows(self, spec: ArraySpec, view: int, part: Part, out: npt.NDArray[Any]) -> None:
        """See `StoredArrays.read_rows`: each chunk with a wanted row is fetched and decompressed once."""
        with self._reading(spec.name):
            array = self._array(spec.name)
            self._require_chunk(spec.name, array, (view, part.block, *[0] * len(spec.row)))
            start = part.block * spec.block_rows
            first, last = int(part.rows[0]), int(part.rows[-1])
            if last - first < MOST_SPARSE * len(part.rows):
                out[part.places] = array[view, start + first : start + last + 1][part.rows - first]
            else:
                rows, again = np.unique(part.rows, return_inverse=True)
                out[part.places] = array.oindex[view, start + rows][again]

    def prefetch(self, spec: ArraySpec, view: int, block: int) -> None:
        """See `StoredArrays.prefetch`: zarr has no such call."""

    def count_missing(self, specs: Sequence[ArraySpec]) -> list[int]:
        """See `StoredArrays.count_missing`: unknown here."""
        return [0 for _ in specs]

    def journaled_files(self) -> StoreFiles | None:
        """See `StoredArrays.journaled_files`."""
        return self._files.journaled_files()

    def read_mark(self) -> bytes:
        """See `StoredArrays.read_mark`: there is a journal if the whole folder of a store was copied."""
        return self._files.read_mark()

    def is_compressed(self) -> bool:
        """See `StoredArrays.is_compressed`: not checked at an address."""
        return False

    @contextmanager
    def _reading(self, array: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # see above
            raise StoreError(f"cannot read {array!r} of {str(self.path)!r}: {_said(error)}") from error

    def _require_chunk(self, name: str, array: Any, place: tuple[int, ...]) -> None:
        from zarr.core.sync import sync

        chunk = f"{name}/{array.metadata.encode_chunk_key(place)}"
        if not sync((self._group.store_path / chunk).exists()):
            raise StoreError(f"block file {chunk!r} of {str(self.path)!r} is missing")

    def _array(self, name: str) -> Any:
        try:
            return self._group[name]
        except KeyError:
            raise StoreError(f"array {name!r} of {str(self.path)!r} is missing") from None


class CompressedReader(LibraryReader):
    """Reads a compressed Zarr store on this machine with zarr."""

    form = "compressed Zarr: read through the zarr library, which is slower; cannot be extended"

    def remedy(self, file: str) -> str:
        """See `StoredArrays.remedy`."""
        return "export it again"

    def is_compressed(self) -> bool:
        """See `StoredArrays.is_compressed`."""
        return True


def _zarr_store(folder: Place) -> Any:
    """Return the place of a store as zarr opens it."""
    if isinstance(folder, Path):
        return str(folder)
    from zarr.storage import ObjectStore

    return ObjectStore(folder.bucket.store, read_only=True)


def _said(error: Exception) -> str:
    """Return the message of an error in one line, without secrets."""
    return printable(redacted(" ".join(f"{type(error).__name__}: {error}".split("Debug source")[0].split())))
