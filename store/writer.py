"""The leader of a store: it declares and seals the store, discards moved blocks, and writes blocks as others do.

There is one leader at a time, which a lock ensures where the file system has locks. Blocks need no leader.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from xxhash import xxh3_64_hexdigest

from ..errors import StoreError
from . import journal
from .array_spec import array_specs
from .block_writer import BlockWriter, Targets
from .checked import UnfitError, is_json
from .claim import check_path, check_recorded, claimed, empty
from .contract import IDS, LABELS, ROOT_RECORD, StoreFiles
from .durable import write_durably
from .formats import store_files
from .journal import FileRecord, Journal
from .manifest import ABSENT, Manifest
from .merge import clear_away, merge_journals, take_over
from .moved_rows import files_from, first_difference, first_moved_row
from .object_journal import open_journal
from .objects import size_of
from .temporaries import temporary_for


@contextmanager
def open_writer(path: str | Path, manifest: Manifest, *, overwrite: bool = False) -> Iterator["StoreWriter"]:
    """Create or extend a store, so that the parts that `manifest` declares can be written. Only one leader at a time.

    Args:
        path: of the store, or its address.
        manifest: the parts wanted; they are added to the existing parts.
        overwrite: empty an existing store first.

    Raises:
        LockedError: another process leads the store.
        NoSpaceError: the disk filled up.
        StoreError: the folder holds something else, a store with other settings, or one without its journal; or
            `manifest` is not valid.
    """
    files = store_files(path)
    manifest.check()
    if not is_json(asdict(manifest)):  # known before anything is emptied
        raise UnfitError("the manifest holds values that JSON does not have, such as objects, or numbers not finite")
    check_path(path)
    with claimed(files):
        if overwrite or not files.exists():
            empty(files)
        writer = StoreWriter(files, manifest)
        try:
            yield writer
        finally:
            writer.close()


class StoreWriter(BlockWriter):
    """Leads a store: declares it, writes its missing blocks, and seals it. Made by `open_writer`."""

    def __init__(self, files: StoreFiles, wanted: Manifest) -> None:
        check_recorded(files)
        self._stored = files.read_manifest() if files.exists() else None
        manifest = self._stored.merged(wanted) if self._stored else wanted
        own = open_journal(files.folder)
        super().__init__(files, manifest, wanted, own)
        if self._stored is None:
            own.add_mark()
        take_over(files, own)
        files.remove_temporary(self._stored or manifest)

    def drop_moved_rows(self, targets: Mapping[str, Targets]) -> None:
        """Remove the blocks whose rows moved: stored images are now left out, or the split grows. Earlier blocks stay.

        Call it before `declare` if images that an earlier extraction stored may be left out now, or rows may be added.
        Nothing else is removed: if ids differ for another reason, `declare` refuses them.

        After a kill at any point, the same two calls go on. The store is marked as incomplete first. Then the blocks
        are removed, and the manifest records the images. Blocks that another writer finished meanwhile, by the old
        manifest, are removed too. The old ids, which show that rows moved, are removed last.
        """
        rows = {split: self._first_moved_row(split, ids) for split, (_, ids) in targets.items()}
        first = {split: row for split, row in rows.items() if row is not None}
        if not first or self._stored is None:
            return
        moved = [name for each in first.items() for name in files_from(self._files, self._stored, *each)]
        write_root(self._files, replace(self._stored, complete=False), self.journal)
        self._discard(moved)
        self._cancel_metadata()
        self._write_manifest(complete=False)
        self._files.look_again()
        self._discard([name for name in moved if size_of(self._files.folder / name) is not None])
        rows_of = [self._files.whole_names(f"{split}/{name}") for split in first for name in (LABELS, IDS)]
        self._discard([name for names in rows_of for name in names])

    def declare(self, targets: Mapping[str, Targets]) -> None:
        """Write the manifest, all metadata, and the labels and ids of each split, before any block.

        Raises:
            StoreError: a split is stored with other ids; nothing is written.
        """
        for split, (_, ids) in targets.items():
            self._check_ids(split, ids)
        self._cancel_metadata()
        self._write_manifest(complete=self._has_all())
        for split, (labels, ids) in targets.items():
            self.write_whole(f"{split}/{LABELS}", labels)
            self.write_whole(f"{split}/{IDS}", ids)
        self._files.write_metadata(self.manifest)
        written = journal.file_records(self._files.folder, self._files.metadata_names(self.manifest))
        self.journal.add_files(record for record in written if self.journal.records.get(record.file) != record)

    def seal(self) -> bool:
        """Wait for everything queued, merge all journals and write the manifest; return whether the store is complete.

        It is complete if every declared file is recorded. Nothing can be appended afterwards.
        """
        self._lanes.join()
        merge_journals(self._files.folder, self.journal)
        self._files.look_again()
        self._write_manifest(complete=self._has_all())
        if self.manifest.complete:
            clear_away(self._files, self.manifest, self.journal)
        return self.manifest.complete

    def _discard(self, names: Sequence[str]) -> None:
        """Remove files, and all that other writers left: their records may be of these files."""
        assert self._stored is not None
        clear_away(self._files, self._stored, self.journal)
        self._files.check_inside(names)
        self.journal.cancel(names)  # else an old record would vouch for the file that comes in its place
        self._files.remove(names)

    def _cancel_metadata(self) -> None:
        """Cancel the records of the metadata that are about to change: those of arrays that get other rows or views."""
        if self._stored is not None:
            changed = {spec.name for spec in set(array_specs(self._stored)) - set(array_specs(self.manifest))}
            names = self._files.metadata_names(self._stored)
            self.journal.cancel(name for name in names if name.rpartition("/")[0] in changed)

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
        advice = "write to another store, or give --overwrite"
        if len(self.manifest.splits[split].limits) > 1:
            advice = "a shard moves no rows: give the larger --limit once without --shard, then go on with shards"
        raise StoreError(
            f"split {split!r} of {str(self._files.path)!r} holds other images from row {row} on "
            f"(stored {old!r}, asked {new!r}); {advice}"
        )

    def _stored_ids(self, split: str) -> list[str] | None:
        array = f"{split}/{IDS}"
        return [str(key) for key in self.read_whole(array)] if self.has_whole(array) else None

    def _has_all(self) -> bool:
        return all(map(self._recorded, self._files.declared(self.manifest)))

    def _write_manifest(self, *, complete: bool) -> None:
        self.manifest = replace(self.manifest, complete=complete)
        write_root(self._files, self.manifest, self.journal)


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
    write_durably(files.root, content, temporary_for(files.root))
