"""The writer: batches in, finished blocks out, with a few threads between the backbone and the disk.

Memory holds the batches in the queues and nothing else, however large a block is. When a block is full
its files are fsynced and renamed, and only then recorded in the journal: whatever it names is whole.
"""

import os
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
from .contract import IDS, LABELS, ROOT_RECORD, ArraySpec, StoreFiles, array_spec
from .durable import write_durably
from .formats import store_files
from .journal import FileRecord, Journal
from .lanes import Lanes
from .layout import CHANNELS, layer_index, layer_name
from .library import is_compressed
from .manifest import Manifest
from .quantize import STATISTICS_ROWS

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
    files = store_files(path)
    check_path(path)
    with _explained_full_disk(path), _locked(files.folder):
        if overwrite or not files.exists():
            _empty(files)
        writer = StoreWriter(files, manifest)
        try:
            yield writer
        finally:
            writer.close()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with lock.StoreLock(folder):
        yield


def check_path(path: Path) -> None:
    """Raise StoreError if something that is no store is in the way; a first run killed early is not."""
    files = store_files(path)
    if files.exists():
        if is_compressed(files.folder):
            raise StoreError(f"{str(path)!r} is compressed: it can be read, but not added to; give another path")
        return
    if files.root.exists() or not _is_fresh(files.folder):
        raise StoreError(f"{str(path)!r} exists and is not a token store; give another path")


def _is_fresh(folder: Path) -> bool:
    """Whether a folder holds nothing, or what a writer leaves that was killed before it wrote the first root."""
    if not folder.is_dir():
        return not folder.exists()
    if (folder / journal.NAME).is_file():
        return journal.read_records(folder).keys() <= {ROOT_RECORD}
    return all(entry.name == lock.NAME for entry in folder.iterdir())


class StoreWriter:
    """Writes the missing blocks of a store. Made by `open_writer`."""

    def __init__(self, files: StoreFiles, wanted: Manifest) -> None:
        self._files = files
        self._wanted = wanted
        self._stored = files.read_manifest() if files.exists() else None
        self.manifest = self._stored.merged(wanted) if self._stored else wanted
        self.journal = Journal(files.folder)
        n_layers = max(len(info.layers) for info in wanted.splits.values())
        self._lanes = Lanes(N_LANES, queued=-(-QUEUED_BATCHES * n_layers // N_LANES))
        self._growing: dict[tuple[BlockKey, int], dict[str, BlockFile]] = {}

    def declare(self, rows: Mapping[str, Rows]) -> None:
        """Write the manifest, all metadata, and (labels, ids) of each split, before any block."""
        for split, (_, ids) in rows.items():
            self._remove_moved(split, ids)
        self._write_manifest()
        for split, (labels, ids) in rows.items():
            self.write_whole(f"{split}/{LABELS}", labels)
            self.write_whole(f"{split}/{IDS}", ids)
        self._files.write_metadata(self.manifest)
        written = [file_record(self._files.folder, name) for name in self._files.metadata_names(self.manifest)]
        self.journal.add_files(record for record in written if self.journal.records.get(record.file) != record)

    def write_whole(self, array: str, values: npt.NDArray[Any] | list[str]) -> None:
        """Write a small array and record it, if it is not there."""
        if not self.has_whole(array):
            self._files.write_whole(array, values)
            self.journal.add_files(file_record(self._files.folder, name) for name in self._files.whole_names(array))

    def has_whole(self, array: str) -> bool:
        """Whether a small array is written."""
        return all(self._recorded(name) for name in self._files.whole_names(array))

    def read_whole(self, array: str) -> npt.NDArray[Any]:
        """Read a small array that is written."""
        return self._files.read_whole(array)

    def missing_layers(self, key: BlockKey) -> list[int]:
        """Return the wanted layers of a block of which some array is not recorded."""
        layers = self._wanted.splits[key.split].layers
        return [
            layer_index(name)
            for name, kinds in layers.items()
            if not all(self._recorded(self._files.block_name(self._spec(key, name, kind), *key[1:])) for kind in kinds)
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
        if self._stored is None or split not in self._stored.splits or not self.has_whole(f"{split}/{IDS}"):
            return  # killed while it was declared: there are no blocks yet
        stored = [str(key) for key in self._files.read_whole(f"{split}/{IDS}")]
        if stored == ids:
            return
        first = next(row for row, key in enumerate([*ids, None]) if row == len(stored) or stored[row] != key)
        whole = [f"{split}/{LABELS}", f"{split}/{IDS}"]
        for spec in self._files.specs(self._stored):
            if spec.name.startswith(f"{split}/"):
                channels = spec.type.name == "int8"  # decided by the first rows, and deciding every block
                start = 0 if channels and first < STATISTICS_ROWS else first // spec.block_rows
                for view, block in product(range(spec.n_views), range(start, spec.n_blocks)):
                    self._path(self._files.block_name(spec, view, block)).unlink(missing_ok=True)
                whole += [spec.name + CHANNELS] if channels and not start else []
        for name in (name for array in whole for name in self._files.whole_names(array)):
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._files.folder / name

    def _append(self, key: BlockKey, layer: int, arrays: Arrays) -> None:
        files = self._growing.setdefault((key, layer), {})
        for kind, values in arrays.items():
            if kind not in files:
                files[kind] = self._new_file(key, layer, kind)
            files[kind].append(values)

    def _finish(self, key: BlockKey, layer: int) -> None:
        growing = self._growing[key, layer].values()
        self.journal.add_files([file.finish(self._there(file.name)) for file in growing])
        del self._growing[key, layer]

    def _new_file(self, key: BlockKey, layer: int, kind: str) -> BlockFile:
        spec = self._spec(key, layer_name(layer), kind)
        name = self._files.block_name(spec, key.view, key.block)
        return BlockFile(self._files.folder, name, spec, self._files.block_header(spec))

    def _spec(self, key: BlockKey, layer: str, kind: str) -> ArraySpec:
        return array_spec(self.manifest, key.split, layer, kind)

    def _write_manifest(self) -> None:
        complete = all(map(self._recorded, self._files.declared(self.manifest)))
        self.manifest = replace(self.manifest, complete=complete)
        write_root(self._files, self.manifest, self.journal)

    def _recorded(self, name: str) -> bool:
        return self._there(name) is not None

    def _there(self, name: str) -> FileRecord | None:
        """Return the record of a file that is in the journal, and on the disk with the size it had then."""
        record = self.journal.records.get(name)
        return record if record is not None and journal.is_there(self._files.folder, record) else None


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


def file_record(store: Path, name: str) -> FileRecord:
    """Make the record of a file that is whole; all of it is read into memory."""
    data = (store / name).read_bytes()
    return FileRecord(name, len(data), xxh3_64_hexdigest(data))


def write_root(files: StoreFiles, manifest: Manifest, records: Journal) -> None:
    """Write the root file if it changes. The journal has it first: after a crash, one of its last two is there."""
    content = files.root_bytes(manifest)
    if not files.root.exists() or files.root.read_bytes() != content:
        records.add_root(FileRecord(ROOT_RECORD, len(content), xxh3_64_hexdigest(content)), manifest.to_json())
        write_durably(files.root, content)


def _empty(files: StoreFiles) -> None:
    """Remove everything but the lock and an empty journal. Killed halfway, nothing counts as written."""
    files.root.unlink(missing_ok=True)
    if (files.folder / journal.NAME).exists():
        os.truncate(files.folder / journal.NAME, 0)
    for entry in files.folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name not in (lock.NAME, journal.NAME):
            entry.unlink()
