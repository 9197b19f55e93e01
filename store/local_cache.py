"""Blocks of a store at an address, kept on this machine: fetched once, whole, and read from the disk afterwards.

    DIR/STORE/train/layer_05/patch/c.0.3.0.0.HASH

STORE is the store's name and what identifies it. HASH is the block's, from the journal. So a block that was made again
with other bytes has another file. Without a journal, the fingerprint of the block's tokens takes the place of its hash.
A file gets its name only once its bytes are complete and match the hash. Several processes may share a folder.
"""

import os
from collections import defaultdict
from errno import ENOSPC
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy.typing as npt
from xxhash import xxh3_64, xxh3_64_hexdigest

from ..errors import InputError, NoSpaceError, StoreError
from ..runtime.address import is_address
from .array_spec import ArraySpec
from .durable import open_new, rename_durably
from .extents import N_THREADS, Extent, Part, as_bytes, fetch, read_part
from .formats import local_path, open_arrays
from .journal import FileRecord, read_records
from .layout import layer_index
from .manifest import Manifest
from .objects import ObjectPath
from .reader import Store, open_store
from .remote import RemoteFiles
from .temporaries import is_left_over, new_writer, temporary_files, temporary_of

PIECE_BYTES = 8 * 2**20
UNCHECKED = "unchecked-"
"""Begins the name in place of a hash, for a block that no journal records: only its size is checked."""


def open_cached(path: str | Path, cache: str | Path | None) -> Store:
    """Open a store for reading as `open_store` does; if it is at an address, keep its blocks in a folder.

    Args:
        path: of the store, or its address. A store on this machine needs no cache.
        cache: the folder, or None for no cache.

    Raises:
        InputError: blocks of this store cannot be kept: they are compressed.
        MissingError: there is no store.
        StoreError: something else is there.
    """
    if cache is None or not is_address(path):
        return open_store(path)
    arrays = open_arrays(path)
    if not isinstance(arrays, RemoteFiles):
        raise InputError(
            f"{str(arrays.path)!r} is {arrays.form}, and a local cache keeps only plain blocks; leave out --local-cache"
        )
    cached = CachedFiles(str(arrays.path), local_path(cache))
    return Store(cached.path, cached)


class CachedFiles(RemoteFiles):
    """A store at an address, whose blocks are read from a folder on this machine."""

    form = "Zarr at an address, with a local cache of its blocks"
    n_threads = max(N_THREADS, 8)

    def __init__(self, address: str, cache: Path) -> None:
        """Take an address that `check_address` returned, and the folder for all stores' blocks."""
        super().__init__(address)
        known_by = self.read_mark() or address.encode()
        self.cache = cache / f"{self.folder.bucket.address.rpartition('/')[2]}-{xxh3_64_hexdigest(known_by)}"
        for name, _ in list(temporary_files(self.cache)):
            if is_left_over(self.cache / name):
                (self.cache / name).unlink(missing_ok=True)
        self._locks: defaultdict[str, Lock] = defaultdict(Lock)

    def read_rows(self, spec: ArraySpec, view: int, part: Part, out: npt.NDArray[Any]) -> None:
        """See `StoredArrays.read_rows`: from the file in the folder, which is fetched first if it is not there."""
        path = self._fetched(spec, view, part.block)
        size = len(spec.rows_of(part.block)) * spec.row_bytes
        read_part(Extent(path, 0, size), part, spec.row_bytes, as_bytes(out))

    def prefetch(self, spec: ArraySpec, view: int, block: int) -> None:
        """See `StoredArrays.prefetch`: into the folder, and from there into the kernel's page cache."""
        fetch(Extent(self._fetched(spec, view, block), 0, spec.block_bytes))

    def _fetched(self, spec: ArraySpec, view: int, block: int) -> Path:
        """Return the file of a block, after fetching it if it is not there."""
        name = self.block_name(spec, view, block)
        record = self._record(name)
        path = self.cache / f"{name}.{self._fingerprint(spec, view) if record is None else record.xxh3}"
        with self._locks[name]:
            if not (path.is_file() and path.stat().st_size == spec.block_bytes):
                self._fetch(self.folder / name, spec.block_bytes, record, path)
        return path

    def _fingerprint(self, spec: ArraySpec, view: int) -> str:
        """Return what stands for the hash of a block without a record: it differs if the store was made otherwise."""
        split, layer, _ = spec.name.split("/")
        return UNCHECKED + self._manifest.fingerprint(split, layer_index(layer), view)[:16]

    def _record(self, name: str) -> FileRecord | None:
        if name not in self._records and self._records:  # a writer may have finished it since
            self.__dict__["_records"] = read_records(self.folder)
        return self._records.get(name)

    @cached_property
    def _manifest(self) -> Manifest:
        return self.read_manifest()

    @cached_property
    def _records(self) -> dict[str, FileRecord]:
        return read_records(self.folder)

    def _fetch(self, source: ObjectPath, size: int, record: FileRecord | None, path: Path) -> None:
        """Fetch a block to a temporary file, check it, and give it its name."""
        temporary = temporary_of(path, new_writer())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            digest = _copy(source, size, temporary)
            if record is not None and digest != record.xxh3:
                raise StoreError(
                    f"{str(source)!r} is damaged: its bytes differ from those that were written; "
                    f"mend it with probe verify --repair {self.path}"
                )
            rename_durably(temporary, path)
        except FileNotFoundError:
            raise StoreError(
                f"block file {str(source)!r} is missing; run the same probe extract again, or probe verify --repair"
            ) from None
        except OSError as error:
            if error.errno != ENOSPC:
                raise
            raise NoSpaceError(
                f"the disk of the local cache {str(self.cache)!r} is full; free some space, or fit fewer layers"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)


def _copy(source: ObjectPath, size: int, path: Path) -> str:
    """Copy an object to a new file, durably; return its hash."""
    digest, fd = xxh3_64(), open_new(path)
    try:
        for start in range(0, size, PIECE_BYTES):
            [piece] = source.read_ranges([(start, min(start + PIECE_BYTES, size))])
            data = memoryview(piece)
            if len(data) < min(PIECE_BYTES, size - start):
                raise StoreError(f"{str(source)!r} is too short: it is damaged; probe verify --repair mends it")
            digest.update(data)
            while data:
                data = data[os.write(fd, data) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    return digest.hexdigest()
