"""The writer: batches in, finished blocks out, with a few threads between the backbone and the disk.

Memory holds the batches in the queues and nothing else, however large a block is. When a block is full
its files are fsynced and renamed, and only then recorded in the journal: whatever it names is whole.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from errno import ENOSPC
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_hexdigest

from ..errors import NoSpaceError, StoreError
from . import journal, lock
from .block_file import BlockFile
from .journal import FileRecord, Journal
from .lanes import Lanes
from .layout import layer_index, layer_name
from .manifest import Manifest
from .zarr_store import IDS, ROOT, ZarrFiles, array_dtype

N_LANES = 4
QUEUED_BATCHES = 2
Arrays = Mapping[str, npt.NDArray[Any]]
Rows = tuple[npt.NDArray[np.int64], list[str]]


class BlockKey(NamedTuple):
    """One block of one view of one split."""

    split: str
    view: int
    block: int


@contextmanager
def open_writer(path: Path, manifest: Manifest, *, overwrite: bool = False) -> Iterator["StoreWriter"]:
    """Open a store for writing what `manifest` declares, creating or extending it; one writer at a time.

    Args:
        path: folder of the store.
        manifest: what is wanted; merged with what is there.
        overwrite: empty a store that is already there.

    Raises:
        LockedError: another process is writing to it.
        NoSpaceError: the disk filled up.
        StoreError: the folder holds something else, or a store made differently.
    """
    files = ZarrFiles(path)
    check_path(path)
    with _explained_full_disk(path), _locked(path):
        if overwrite:
            _empty(files)
        writer = StoreWriter(files, manifest)
        try:
            yield writer
        finally:
            writer.close()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.mkdir(parents=True, exist_ok=True)
    with lock.StoreLock(path):
        yield


def check_path(path: Path) -> None:
    """Raise StoreError if something that is no store is in the way; a first run killed early is not."""
    if not path.exists():
        return
    ours = {journal.NAME, lock.NAME, ROOT + ".tmp"}
    if not path.is_dir() or (any(entry.name not in ours for entry in path.iterdir()) and not ZarrFiles(path).exists()):
        raise StoreError(f"{str(path)!r} exists and is not a token store; give another path")


class StoreWriter:
    """Writes the missing blocks of a store. Made by `open_writer`."""

    def __init__(self, files: ZarrFiles, wanted: Manifest) -> None:
        self._files = files
        self._wanted = wanted
        self._stored = files.read_manifest() if files.exists() else None
        self.manifest = self._stored.merged(wanted) if self._stored else wanted
        self.journal = Journal(files.path)
        n_layers = max(len(info.layers) for info in wanted.splits.values())
        self._lanes = Lanes(N_LANES, queued=-(-QUEUED_BATCHES * n_layers // N_LANES))
        self._growing: dict[tuple[BlockKey, int], dict[str, BlockFile]] = {}

    def declare(self, rows: Mapping[str, Rows]) -> None:
        """Write the manifest, all metadata, and (labels, ids) of each split, before any block."""
        for split, (_, ids) in rows.items():
            self._remove_moved(split, ids)
        self._write_manifest()
        for split, (labels, ids) in rows.items():
            names = self._files.row_files(split)
            if not all(self._recorded(name) for name in names):
                self._files.write_rows(split, labels, ids)
                self.journal.add_files([_record(self._files.path, name) for name in names])
        self._files.create_arrays(self.manifest)

    def missing_layers(self, key: BlockKey) -> list[int]:
        """Return the wanted layers of a block of which some array is not recorded."""
        layers = self._wanted.splits[key.split].layers
        return [
            layer_index(name)
            for name, kinds in layers.items()
            if not all(self._recorded(self._name(key, name, kind)) for kind in kinds)
        ]

    def append(self, key: BlockKey, layer: int, arrays: Arrays) -> None:
        """Add the next images of a block to one layer: (n, …) values in the stored dtype, by array kind."""
        self._lanes.put(layer, self._append, key, layer, arrays)

    def finish(self, key: BlockKey, layer: int) -> None:
        """Make the files of a full block durable and record them, in the background."""
        self._lanes.put(layer, self._finish, key, layer)

    def complete(self) -> bool:
        """Wait for everything queued and write the manifest; return whether nothing declared is missing."""
        self._lanes.join()
        self._write_manifest()
        return self.manifest.complete

    def close(self) -> None:
        """End the threads, drop unfinished blocks and close all files. Finished blocks stay."""
        self._lanes.stop()
        for block_files in self._growing.values():
            for file in block_files.values():
                file.abandon()
        self.journal.close()

    def _remove_moved(self, split: str, ids: list[str]) -> None:
        """Remove the files of a split from the first row on that holds another image now."""
        info = self._stored.splits.get(split) if self._stored else None
        if info is None:
            return
        for name in self._files.row_files(split):
            if not self._recorded(name):
                return  # killed while it was declared: there are no blocks yet
        stored = self._files.read_rows(split, IDS)
        if list(stored) == ids:
            return
        first = next(row for row, key in enumerate([*ids, None]) if row == len(stored) or stored[row] != key)
        for layer, kinds in info.layers.items():
            for view, block in product(range(self.manifest.views), range(first // info.block_rows, info.n_blocks)):
                for kind in kinds:
                    self._path(self._files.chunk_name(split, layer, kind, view, block)).unlink(missing_ok=True)
        for name in self._files.row_files(split):
            self._path(name).unlink()

    def _path(self, name: str) -> Path:
        return self._files.path / name

    def _append(self, key: BlockKey, layer: int, arrays: Arrays) -> None:
        if (key, layer) not in self._growing:
            self._growing[key, layer] = {kind: self._new_file(key, layer, kind) for kind in arrays}
        for kind, values in arrays.items():
            self._growing[key, layer][kind].append(values)

    def _finish(self, key: BlockKey, layer: int) -> None:
        self.journal.add_files([file.finish() for file in self._growing[key, layer].values()])
        del self._growing[key, layer]

    def _new_file(self, key: BlockKey, layer: int, kind: str) -> BlockFile:
        return BlockFile(
            self._files.path,
            self._name(key, layer_name(layer), kind),
            n_rows=self.manifest.splits[key.split].block_rows,
            row=self.manifest.shape(layer).row_shape(kind),
            dtype=array_dtype(kind, self.manifest.recipe.dtype),
        )

    def _name(self, key: BlockKey, layer: str, kind: str) -> str:
        return self._files.chunk_name(key.split, layer, kind, key.view, key.block)

    def _write_manifest(self) -> None:
        complete = all(self._recorded(name) for name in self._files.token_files(self.manifest))
        self.manifest = replace(self.manifest, complete=complete)
        self._files.write_manifest(self.manifest)

    def _recorded(self, name: str) -> bool:
        """Whether a file is in the journal, and on the disk with the size it had then."""
        record = self.journal.records.get(name)
        return record is not None and journal.is_there(self._files.path, record)


@contextmanager
def _explained_full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        raise NoSpaceError(
            f"the disk of {str(path)!r} is full; finished blocks are safe: "
            "free some space, then run the same command again"
        ) from error


def _record(store: Path, name: str) -> FileRecord:
    data = (store / name).read_bytes()
    return FileRecord(name, len(data), xxh3_64_hexdigest(data))


def _empty(files: ZarrFiles) -> None:
    """Remove everything but the lock, the manifest last: killed halfway, it is still an incomplete store."""
    if not files.exists():
        return
    files.mark_incomplete()
    for entry in files.path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name not in (lock.NAME, ROOT):
            entry.unlink()
    (files.path / ROOT).unlink()
