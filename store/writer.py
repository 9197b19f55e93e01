"""The writer: batches in, finished blocks out, with a few threads between the backbone and the disk.

Memory holds only the queued batches, however large a block is. When a block is full, its files are fsynced and
renamed, and only then recorded in the journal. So every file that the journal names is complete.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_hexdigest

from ..errors import StoreError
from . import journal
from .array_spec import ArraySpec, array_spec
from .block_file import BlockFile
from .claim import check_path, claimed, empty
from .contract import IDS, LABELS, ROOT_RECORD, StoreFiles
from .durable import write_durably
from .formats import store_files
from .journal import FileRecord, Journal
from .lanes import Lanes
from .layout import layer_index, layer_name
from .manifest import ABSENT, Manifest
from .moved_rows import files_from, first_difference, first_moved_row
from .small import read_small

N_LANES = 4
QUEUED_BATCHES = 2
Arrays = Mapping[str, npt.NDArray[Any]]


class Targets(NamedTuple):
    """The images of a split in row order: (n,) or (n, classes) int64 labels, and n ids."""

    labels: npt.NDArray[np.int64]
    ids: list[str]


class BlockKey(NamedTuple):
    """One block of one view of one split."""

    split: str
    view: int
    block: int


@contextmanager
def open_writer(path: Path, manifest: Manifest, *, overwrite: bool = False) -> Iterator["StoreWriter"]:
    """Create or extend a store, so that the parts that `manifest` declares can be written. Only one writer at a time.

    Args:
        path: folder of the store.
        manifest: the parts wanted; they are added to the existing parts.
        overwrite: empty an existing store first.

    Raises:
        LockedError: another process is writing to the store.
        NoSpaceError: the disk filled up.
        StoreError: the folder holds something else, or a store with other settings; or `manifest` is not valid.
    """
    files = store_files(path)
    manifest.check()
    check_path(path)
    with claimed(files):
        if overwrite or not files.exists():
            empty(files)
        writer = StoreWriter(files, manifest)
        try:
            yield writer
        finally:
            writer.close()


class StoreWriter:
    """Writes the missing blocks of a store. Made by `open_writer`."""

    def __init__(self, files: StoreFiles, wanted: Manifest) -> None:
        self._files = files
        self._wanted = wanted
        self._stored = files.read_manifest() if files.exists() else None
        self.manifest = self._stored.merged(wanted) if self._stored else wanted
        self.journal = Journal(files.folder)
        if self._stored is None:
            self.journal.add_mark()
        n_layers = max(len(info.layers) for info in wanted.splits.values())
        self._lanes = Lanes(N_LANES, queued=-(-QUEUED_BATCHES * n_layers // N_LANES))
        self._growing: dict[tuple[BlockKey, int], dict[str, BlockFile]] = {}

    def drop_moved_rows(self, targets: Mapping[str, Targets]) -> None:
        """Remove the blocks whose rows moved: stored images are now left out, or the split grows. Earlier blocks stay.

        Call it before `declare` if images that an earlier extraction stored may be left out now, or rows may be added.
        Nothing else is removed: if ids differ for another reason, `declare` refuses them.

        After a kill at any point, the same two calls go on. The store is marked as incomplete first. Then the blocks
        are removed, and the manifest records the images. The old ids, which show that rows moved, are removed last.
        """
        moved = {split: self._first_moved_row(split, ids) for split, (_, ids) in targets.items()}
        first = {split: row for split, row in moved.items() if row is not None}
        if not first or self._stored is None:
            return
        write_root(self._files, replace(self._stored, complete=False), self.journal)
        for split, row in first.items():
            self._files.remove(files_from(self._files, self._stored, split, row))
        self._write_manifest(complete=False)
        for split in first:
            for name in (LABELS, IDS):
                self._files.remove(self._files.whole_names(f"{split}/{name}"))

    def declare(self, targets: Mapping[str, Targets]) -> None:
        """Write the manifest, all metadata, and the labels and ids of each split, before any block.

        Raises:
            StoreError: a split is stored with other ids; nothing is written.
        """
        for split, (_, ids) in targets.items():
            self._check_ids(split, ids)
        self._write_manifest(complete=self._has_all())
        for split, (labels, ids) in targets.items():
            self.write_whole(f"{split}/{LABELS}", labels)
            self.write_whole(f"{split}/{IDS}", ids)
        self._files.write_metadata(self.manifest)
        written = [file_record(self._files.folder, name) for name in self._files.metadata_names(self.manifest)]
        self.journal.add_files(record for record in written if self.journal.records.get(record.file) != record)

    def write_whole(self, array: str, values: npt.NDArray[Any] | list[str]) -> None:
        """Write a small array and record it, unless it is written already."""
        if not self.has_whole(array):
            self._files.write_whole(array, values)
            self.journal.add_files(file_record(self._files.folder, name) for name in self._files.whole_names(array))

    def has_whole(self, array: str) -> bool:
        """Whether a small array is written."""
        return all(self._recorded(name) for name in self._files.whole_names(array))

    def read_whole(self, array: str) -> npt.NDArray[Any]:
        """Read a small array, or raise StoreError if it is missing or damaged."""
        return read_small(self._files, array)

    def missing_layers(self, key: BlockKey) -> list[int]:
        """Return the wanted layers of a block that still lack an array."""
        layers = self._wanted.splits[key.split].layers
        return [
            layer_index(name)
            for name, kinds in layers.items()
            if not all(self._recorded(self._files.block_name(self._spec(key, name, kind), *key[1:])) for kind in kinds)
        ]

    def append(self, key: BlockKey, layer: int, arrays: Arrays) -> None:
        """Append the next images of a block to one layer: (n, …) values in the stored dtype, by array kind."""
        self._lanes.put(layer, self._append, key, layer, arrays)

    def finish_block(self, key: BlockKey, layer: int) -> None:
        """Make the files of one layer of a full block durable and record them, in the background."""
        self._lanes.put(layer, self._finish_block, key, layer)

    def seal(self) -> bool:
        """Wait for everything queued and write the manifest; return whether the store is complete.

        It is complete if every declared file is recorded. Nothing can be appended afterwards.
        """
        self._lanes.join()
        self._write_manifest(complete=self._has_all())
        return self.manifest.complete

    def close(self) -> None:
        """End the threads, drop unfinished blocks and close all files. Finished blocks stay."""
        self._lanes.stop()
        for block_files in self._growing.values():
            for file in block_files.values():
                file.abandon()
        self.journal.close()

    def _first_moved_row(self, split: str, ids: list[str]) -> int | None:
        """Return the first row that moved because stored images are left out now or rows are added, or None.

        Without stored ids it is unknown which rows moved. Then it is row 0 if other images are left out than before.
        """
        if self._stored is None or split not in self._stored.splits:
            return None
        info = self.manifest.splits[split]
        stored = self._stored_ids(split)
        if stored is None:
            return None if self._stored.splits[split].skipped == info.skipped else 0
        return first_moved_row(stored, ids, set(info.skipped), grown=len(info.limits) > 1)

    def _check_ids(self, split: str, ids: list[str]) -> None:
        stored = self._stored_ids(split)
        row = None if stored is None else first_difference(stored, ids)
        if stored is None or row is None:
            return
        old, new = (each[row] if row < len(each) else ABSENT for each in (stored, ids))
        raise StoreError(
            f"split {split!r} of {str(self._files.path)!r} holds other images from row {row} on "
            f"(stored {old!r}, asked {new!r}); write to another store, or give --overwrite"
        )

    def _stored_ids(self, split: str) -> list[str] | None:
        array = f"{split}/{IDS}"
        return [str(key) for key in self.read_whole(array)] if self.has_whole(array) else None

    def _append(self, key: BlockKey, layer: int, arrays: Arrays) -> None:
        files = self._growing.setdefault((key, layer), {})
        for kind, values in arrays.items():
            if kind not in files:
                files[kind] = self._new_file(key, layer, kind)
            files[kind].append(values)

    def _finish_block(self, key: BlockKey, layer: int) -> None:
        growing = self._growing[key, layer].values()
        self.journal.add_files([file.finish(self._there(file.name)) for file in growing])
        del self._growing[key, layer]

    def _new_file(self, key: BlockKey, layer: int, kind: str) -> BlockFile:
        spec = self._spec(key, layer_name(layer), kind)
        name = self._files.block_name(spec, key.view, key.block)
        n_rows = len(spec.rows_of(key.block))
        return BlockFile(self._files.folder, name, spec, n_rows, self._files.block_header(spec))

    def _spec(self, key: BlockKey, layer: str, kind: str) -> ArraySpec:
        return array_spec(self.manifest, key.split, layer, kind)

    def _has_all(self) -> bool:
        return all(map(self._recorded, self._files.declared(self.manifest)))

    def _write_manifest(self, *, complete: bool) -> None:
        self.manifest = replace(self.manifest, complete=complete)
        write_root(self._files, self.manifest, self.journal)

    def _recorded(self, name: str) -> bool:
        return self._there(name) is not None

    def _there(self, name: str) -> FileRecord | None:
        """Return the record of a file if it is on the disk with its recorded size, else None."""
        record = self.journal.records.get(name)
        return record if record is not None and journal.is_there(self._files.folder, record) else None


def file_record(store: Path, name: str) -> FileRecord:
    """Make the record of a complete file. The whole file is read into memory."""
    data = (store / name).read_bytes()
    return FileRecord(name, len(data), xxh3_64_hexdigest(data))


def write_root(files: StoreFiles, manifest: Manifest, records: Journal) -> None:
    """Write the root file if it changed. The journal records it first, so its last two entries cover a crash.

    A crash between the two leaves the root of the second-last entry. That one is recorded again, or it would become the
    third-last.
    """
    content = files.root_bytes(manifest)
    there = files.root.read_bytes() if files.root.is_file() else b""
    if there == content:
        return
    for entry in journal.root_entries(files.folder)[1:]:
        if entry["xxh3"] == xxh3_64_hexdigest(there):
            records.add_root(FileRecord(ROOT_RECORD, len(there), entry["xxh3"]), entry["content"])
    records.add_root(FileRecord(ROOT_RECORD, len(content), xxh3_64_hexdigest(content)), manifest.to_json())
    write_durably(files.root, content)
