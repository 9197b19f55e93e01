"""Stores that are compressed or far away, read through the zarr library: slower, the same numbers."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MissingError, StoreError
from . import journal
from .array_spec import ArraySpec
from .contract import StoredArrays, StoreFiles
from .extents import Part


class LibraryReader(StoredArrays):
    """Reads a Zarr store with zarr, from an address that fsspec knows.

    Nothing can be written to it, and nothing but its manifest tells how far it is: a block that was never written is
    found when it is read.
    """

    form = "Zarr, far away: read through the zarr library"

    def __init__(self, path: str) -> None:
        """Open the root group.

        Raises:
            MissingError: there is nothing.
            StoreError: zarr cannot open it.
        """
        import zarr

        try:
            self._group = zarr.open_group(path, mode="r")
        except FileNotFoundError as error:
            raise MissingError(f"no store at {path!r}") from error
        except (ImportError, ValueError) as error:
            raise StoreError(f"cannot open {path!r}: {error}") from error
        self.path = path

    def read_attributes(self) -> dict[str, Any]:
        """See `StoredArrays.read_attributes`."""
        root = json.loads(self._read("zarr.json") or b"{}")  # zarr keeps the ones it saw first
        return dict(root.get("attributes", {}))

    def read_whole(self, array: str) -> npt.NDArray[Any]:
        """See `StoredArrays.read_whole`; zarr would give its fill value for a missing chunk."""
        stored = self._array(array)
        self._require_chunk(array, stored, (0,) * stored.ndim)
        return np.asarray(stored[...])

    def read_rows(self, spec: ArraySpec, view: int, part: Part, out: npt.NDArray[Any]) -> None:
        """See `StoredArrays.read_rows`: all rows between the first and the last are decompressed."""
        array = self._array(spec.name)
        self._require_chunk(spec.name, array, (view, part.block, *[0] * len(spec.row)))
        start = part.block * spec.block_rows
        first, last = int(part.rows[0]), int(part.rows[-1])
        out[part.places] = array[view, start + first : start + last + 1][part.rows - first]

    def prefetch(self, spec: ArraySpec, view: int, block: int) -> None:
        """See `StoredArrays.prefetch`: zarr has no such call."""

    def count_missing(self, specs: Sequence[ArraySpec]) -> list[int]:
        """See `StoredArrays.count_missing`: nothing tells."""
        return [0 for _ in specs]

    def journaled_files(self) -> StoreFiles | None:
        """See `StoredArrays.journaled_files`: a journal at an address is not at hand."""
        return None

    def read_mark(self) -> bytes:
        """See `StoredArrays.read_mark`: a journal is there if the whole folder of a store was copied."""
        from zarr.abc.store import RangeByteRequest

        return journal.mark_of(self._read(journal.NAME, RangeByteRequest(0, journal.MARK_BYTES)) or b"")

    def is_compressed(self) -> bool:
        """See `StoredArrays.is_compressed`: at an address nobody looks."""
        return False

    def _read(self, name: str, part: Any = None) -> bytes | None:
        """Return the bytes of a file of the store, or of a part of it; None if it is not there."""
        from zarr.core.sync import sync

        found = sync((self._group.store_path / name).get(byte_range=part))
        return None if found is None else bytes(found.to_bytes())

    def _require_chunk(self, name: str, array: Any, place: tuple[int, ...]) -> None:
        from zarr.core.sync import sync

        chunk = f"{name}/{array.metadata.encode_chunk_key(place)}"
        if not sync((self._group.store_path / chunk).exists()):
            raise StoreError(f"block file {chunk!r} of {self.path!r} is not there")

    def _array(self, name: str) -> Any:
        try:
            return self._group[name]
        except KeyError:
            raise StoreError(f"array {name!r} of {self.path!r} is not there") from None


class CompressedReader(LibraryReader):
    """Reads a compressed Zarr store on this machine with zarr; its journal, if it has one, is at hand."""

    form = "compressed Zarr: read through the zarr library, slower; nothing can be added"

    def __init__(self, files: StoreFiles) -> None:
        """Open the root group; `files` are those of the store.

        Raises:
            MissingError: there is nothing.
            StoreError: zarr cannot open it.
        """
        super().__init__(str(files.path))
        self._files = files

    def journaled_files(self) -> StoreFiles | None:
        """See `StoredArrays.journaled_files`."""
        return self._files.journaled_files()

    def read_mark(self) -> bytes:
        """See `StoredArrays.read_mark`."""
        return self._files.read_mark()

    def is_compressed(self) -> bool:
        """See `StoredArrays.is_compressed`."""
        return True
