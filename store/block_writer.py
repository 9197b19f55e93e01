"""Writing blocks: batches in, finished blocks out, with a few threads between the backbone and the disk.

Memory holds only the queued batches, however large a block is. When a block is full, its files are fsynced and get
their names, and only then the journal records them. So every file that a journal names is complete.

Any number of processes, on any number of machines, may write blocks of one store at the same time. Each has a journal
and temporary names of its own, and no block replaces one that another writer recorded. If two write the same block at
once, so that both record it, the file itself decides which record counts. So it does no harm. No lock is needed.

A store may be made anew while another process still writes to it. That process looks at the manifest after its blocks
have their names, and records them only if the store still declares them. And a file that nobody recorded gives way.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import StoreError
from . import journal
from .array_spec import ArraySpec, array_spec
from .block_file import BlockFile
from .claim import explained_space
from .contract import StoreFiles
from .formats import store_files
from .journal import FileRecord, Journal
from .lanes import Lanes
from .layout import layer_index, layer_name
from .manifest import Manifest
from .object_journal import open_journal
from .objects import version_of
from .small import read_small
from .temporaries import new_writer

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
def open_block_writer(path: str | Path, manifest: Manifest) -> Iterator["BlockWriter"]:
    """Write blocks of a store that its leader has declared. Others may write to it at the same time.

    Args:
        path: of the store.
        manifest: the parts wanted.

    Raises:
        NoSpaceError: the disk filled up.
        StoreError: the store does not declare these parts, or declares them otherwise.
    """
    files, writer = store_files(path), new_writer()
    with explained_space(files):
        stored = files.read_manifest()
        check_declared(files, stored, manifest)
        own = open_journal(files.folder, writer)
        own.know(journal.read_records(files.folder))
        blocks = BlockWriter(files, stored, manifest, own, writer)
        try:
            yield blocks
        finally:
            blocks.close()


def check_declared(files: StoreFiles, stored: Manifest, wanted: Manifest) -> None:
    """Raise StoreError if a store does not declare all wanted parts, with the same bytes."""
    if not declares(stored, wanted):
        raise StoreError(
            f"{str(files.path)!r} declares other tokens than this command makes: other layers, splits or views, or "
            "another model, data or settings; give all processes the same command"
        )


def declares(stored: Manifest, wanted: Manifest) -> bool:
    """Whether a manifest declares all arrays of another one, with the same bytes."""
    return stored.holds(wanted) and all(
        set(kinds) <= set(stored.splits[split].layers[layer])
        for split, info in wanted.splits.items()
        for layer, kinds in info.layers.items()
    )


class BlockWriter:
    """Writes the missing blocks of a declared store. Made by `open_block_writer`.

    Attributes:
        manifest: of the whole store.
        journal: this writer's own.
    """

    def __init__(
        self, files: StoreFiles, manifest: Manifest, wanted: Manifest, own: Journal, writer: str | None = None
    ) -> None:
        """Start the threads.

        Args:
            files: of the store.
            manifest: of the whole store.
            wanted: the parts to write.
            own: journal of this writer.
            writer: its name, for temporary files.
        """
        self._files, self._wanted = files, wanted
        self.manifest, self.journal = manifest, own
        self._name = writer or new_writer()
        n_layers = max(len(info.layers) for info in wanted.splits.values())
        self._lanes = Lanes(files.n_lanes, queued=-(-QUEUED_BATCHES * n_layers // files.n_lanes))
        self._growing: dict[tuple[BlockKey, int], dict[str, BlockFile]] = {}
        self._seen: object = None

    def check_unchanged(self) -> None:
        """Raise StoreError if the store no longer declares the wanted parts: it was made anew, or its rows moved."""
        found = version_of(self._files.root)
        if found is None or found != self._seen:
            check_declared(self._files, self._files.read_manifest(), self._wanted)
            self._seen = found

    def has_whole(self, array: str) -> bool:
        """Whether a small array is written."""
        return all(self._recorded(name) for name in self._files.whole_names(array))

    def write_whole(self, array: str, values: npt.NDArray[Any] | list[str], *, replace: bool = True) -> None:
        """Write a small array and record it, unless it is written already.

        Args:
            array: its name.
            values: its content.
            replace: see `StoreFiles.write_whole`.
        """
        if not self.has_whole(array):
            if not replace:
                self.check_unchanged()
            self._files.write_whole(array, values, replace=replace)
            names = self._files.whole_names(array)
            self.journal.add_files(journal.file_records(self._files.folder, names))

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
        self._lanes.put(self._lane(key, layer), self._append, key, layer, arrays)

    def finish_block(self, key: BlockKey, layer: int) -> None:
        """Make the files of one layer of a full block durable and record them, in the background."""
        self._lanes.put(self._lane(key, layer), self._finish_block, key, layer)

    def _lane(self, key: BlockKey, layer: int) -> int:
        """Return the lane of a block: the next block of a layer has another one, and need not wait for an upload."""
        return layer + key.block

    def flush(self) -> None:
        """Wait until everything queued is done: blocks that were finished are then recorded."""
        self._lanes.flush()

    def close(self) -> None:
        """End the threads, drop unfinished blocks and close all files. Finished blocks stay."""
        self._lanes.stop()
        for block_files in self._growing.values():
            for file in block_files.values():
                file.abandon()
        self.journal.close()

    def _append(self, key: BlockKey, layer: int, arrays: Arrays) -> None:
        files = self._growing.setdefault((key, layer), {})
        for kind, values in arrays.items():
            if kind not in files:
                files[kind] = self._new_file(key, layer, kind)
            files[kind].append(values)

    def _finish_block(self, key: BlockKey, layer: int) -> None:
        self.check_unchanged()  # else old rows would get the name of a block that the next leader takes for its own
        growing = self._growing[key, layer].values()
        records = [file.finish(self._there(file.name), partial(self._stays, file.name)) for file in growing]
        self.check_unchanged()  # else the blocks are of an earlier store: unrecorded, they give way
        self.journal.add_files(records)
        del self._growing[key, layer]

    def _stays(self, name: str) -> bool:
        """Whether another writer's file of a block stays. One that nobody recorded may be of an earlier store.

        Raises:
            StoreError: the store no longer declares the block.
        """
        self.check_unchanged()
        return name in journal.find_records(self._files.folder, [name])

    def _new_file(self, key: BlockKey, layer: int, kind: str) -> BlockFile:
        spec = self._spec(key, layer_name(layer), kind)
        name = self._files.block_name(spec, key.view, key.block)
        n_rows = len(spec.rows_of(key.block))
        return BlockFile(self._files.folder, name, spec, n_rows, self._files.block_header(spec), self._name)

    def _spec(self, key: BlockKey, layer: str, kind: str) -> ArraySpec:
        return array_spec(self.manifest, key.split, layer, kind)

    def _recorded(self, name: str) -> bool:
        return self._there(name) is not None

    def _there(self, name: str) -> FileRecord | None:
        """Return the record of a file if it is on the disk with its recorded size, else None."""
        record = self.journal.records.get(name)
        return record if record is not None and journal.is_there(self._files.folder, record) else None
