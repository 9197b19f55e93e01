"""Reading compressed and remote stores through the zarr library: slower, with the same numbers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MissingError, StoreError
from ..runtime.text import printable
from . import journal
from .array_spec import ArraySpec
from .checked import UnfitError
from .contract import StoredArrays, StoreFiles, attributes_of
from .extents import Part

ROOT = "zarr.json"


class LibraryReader(StoredArrays):
    """Reads a Zarr store with zarr, from an address that fsspec knows.

    The store cannot be written. Only its manifest says whether it is complete: a block that was never written is
    noticed when it is read.
    """

    form = "Zarr at an address: read through the zarr library"

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
            raise MissingError(
                f"no store at {path!r}; check the address, or make a store with probe extract and copy it there"
            ) from error
        except Exception as error:  # zarr, fsspec and what it opens raise errors of every kind
            raise StoreError(f"cannot open {path!r}: {_said(error)}") from error
        self.path = path

    def read_attributes(self) -> dict[str, Any]:
        """See `StoredArrays.read_attributes`."""
        try:
            return attributes_of(self._read(ROOT) or b"{}")  # zarr keeps those that it saw first
        except UnfitError as error:
            raise self.damaged(self.root_name, error) from error

    @property
    def root_name(self) -> str:
        """See `StoredArrays.root_name`."""
        return f"{self.path}/{ROOT}"

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
        """See `StoredArrays.read_rows`: all rows between the first and the last are decompressed."""
        with self._reading(spec.name):
            array = self._array(spec.name)
            self._require_chunk(spec.name, array, (view, part.block, *[0] * len(spec.row)))
            start = part.block * spec.block_rows
            first, last = int(part.rows[0]), int(part.rows[-1])
            out[part.places] = array[view, start + first : start + last + 1][part.rows - first]

    def prefetch(self, spec: ArraySpec, view: int, block: int) -> None:
        """See `StoredArrays.prefetch`: zarr has no such call."""

    def count_missing(self, specs: Sequence[ArraySpec]) -> list[int]:
        """See `StoredArrays.count_missing`: unknown here."""
        return [0 for _ in specs]

    def journaled_files(self) -> StoreFiles | None:
        """See `StoredArrays.journaled_files`: there is no local journal."""
        return None

    def read_mark(self) -> bytes:
        """See `StoredArrays.read_mark`: the address has a journal if the whole folder of a store was copied."""
        from zarr.abc.store import RangeByteRequest

        return journal.mark_of(self._read(journal.NAME, RangeByteRequest(0, journal.MARK_BYTES)) or b"")

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
            raise StoreError(f"cannot read {array!r} of {self.path!r}: {_said(error)}") from error

    def _read(self, name: str, part: Any = None) -> bytes | None:
        """Return the bytes of a file of the store, or of a part of it; None if it is not there."""
        from zarr.core.sync import sync

        with self._reading(name):
            found = sync((self._group.store_path / name).get(byte_range=part))
            return None if found is None else bytes(found.to_bytes())

    def _require_chunk(self, name: str, array: Any, place: tuple[int, ...]) -> None:
        from zarr.core.sync import sync

        chunk = f"{name}/{array.metadata.encode_chunk_key(place)}"
        if not sync((self._group.store_path / chunk).exists()):
            raise StoreError(f"block file {chunk!r} of {self.path!r} is missing")

    def _array(self, name: str) -> Any:
        try:
            return self._group[name]
        except KeyError:
            raise StoreError(f"array {name!r} of {self.path!r} is missing") from None


class CompressedReader(LibraryReader):
    """Reads a compressed Zarr store on this machine with zarr, and its journal if it has one."""

    form = "compressed Zarr: read through the zarr library, which is slower; cannot be extended"

    def __init__(self, files: StoreFiles) -> None:
        """Open the root group; `files` are the store's.

        Raises:
            MissingError: there is nothing.
            StoreError: zarr cannot open it.
        """
        super().__init__(str(files.path))
        self._files = files

    def journaled_files(self) -> StoreFiles | None:
        """See `StoredArrays.journaled_files`."""
        return self._files.journaled_files()

    def remedy(self, file: str) -> str:
        """See `StoredArrays.remedy`."""
        return "export it again"

    def read_mark(self) -> bytes:
        """See `StoredArrays.read_mark`."""
        return self._files.read_mark()

    def is_compressed(self) -> bool:
        """See `StoredArrays.is_compressed`."""
        return True


def _said(error: Exception) -> str:
    """Return the message of an error in one line."""
    return printable(" ".join(f"{type(error).__name__}: {error}".split()))
