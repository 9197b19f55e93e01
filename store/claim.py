"""Claiming the path of a store for writing: nothing else may be there, and only one writer works at a time.

Only the store's own files are removed: those that its manifest or journal names, and their temporary files.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import ENOSPC
from pathlib import Path

from ..errors import NoSpaceError, StoreError
from . import journal, lock
from .array_spec import array_specs
from .contract import ROOT_RECORD, StoreFiles
from .durable import remove_durably
from .formats import store_files
from .manifest import Manifest
from .object_journal import open_journal
from .object_lock import lock_of
from .objects import ObjectPath, Place, size_of
from .temporaries import file_of, temporary_files


def check_path(path: str | Path) -> None:
    """Refuse a path that holds something other than a store. Remains of a writer that was killed early are accepted.

    Raises:
        StoreError: the path holds something else, a compressed store, or a store without its manifest.
    """
    files = store_files(path)
    if files.exists():
        if files.is_compressed():
            raise StoreError(f"{str(path)!r} is compressed: it can be read, but not extended; give another path")
        return
    there = files.root.exists() or not _is_fresh(files)
    if there and files.exists():  # another process declared it meanwhile
        return
    if there and journal.root_entries(files.folder):
        raise StoreError(f"{str(path)!r} has lost its manifest; bring it back with probe verify --repair")
    if there:
        raise StoreError(f"{str(path)!r} exists and is not a token store; give another path")


def _is_fresh(files: StoreFiles) -> bool:
    """Whether a folder is empty, or holds only the remains of a writer that was killed before it wrote the root."""
    if not (files.folder.is_dir() if isinstance(files.folder, ObjectPath) else os.path.lexists(files.folder)):
        return True
    if isinstance(files.folder, Path) and not files.folder.is_dir():
        return False
    if journal.is_being_emptied(files.folder):
        return True
    kept = _early_files(files)
    return all(
        entry.is_file() and not entry.is_symlink() and (file_of(entry.name) == files.root.name or _is_kept(entry, kept))
        for entry in files.folder.iterdir()
    )


def _is_kept(entry: Place, kept: Mapping[str, Callable[[Place], bool]]) -> bool:
    return entry.name in kept and kept[entry.name](entry)


def _early_files(files: StoreFiles) -> Mapping[str, Callable[[Place], bool]]:
    """Return, by name, the files written before the root, each with a check that the file is ours."""
    return {
        lock.NAME: lock.is_ours,
        journal.NAME: lambda path: journal.is_ours(path) and journal.read_records(path.parent).keys() <= {ROOT_RECORD},
    }


def check_recorded(files: StoreFiles) -> None:
    """Refuse a store whose blocks no journal records: it cannot be told which of them are complete.

    Raises:
        StoreError: there are blocks, and no records.
    """
    if not files.exists() or journal.read_records(files.folder):
        return
    for spec in array_specs(files.read_manifest()):
        if any(size_of(files.folder / name) is not None for name in files.block_names(spec)):
            raise StoreError(
                f"{str(files.path)!r} has lost its journal, so it cannot be told which of its blocks are complete; it "
                f"can be read, but not extended: bring {str(files.folder / journal.NAME)!r} back, write to another "
                "store, or give probe extract --overwrite"
            )


@contextmanager
def claimed(files: StoreFiles) -> Iterator[None]:
    """Make the folder of a store and hold its lock. A full disk raises an error with advice.

    Raises:
        LockedError: another process holds the lock.
        NoSpaceError: the disk filled up.
    """
    with explained_space(files):
        files.folder.mkdir(parents=True, exist_ok=True)
        with lock_of(files.folder):
            yield


@contextmanager
def explained_space(files: StoreFiles) -> Iterator[None]:
    """Turn the error of a full disk into a NoSpaceError with advice."""
    try:
        yield
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        raise NoSpaceError(
            f"the disk of {str(files.path)!r} is full; finished blocks are safe: "
            "free some space, then run the same command again"
        ) from error


def empty(files: StoreFiles) -> None:
    """Remove the files of a store. Foreign files, the lock and an empty journal stay.

    The journal first records that all its files are to be removed. Then the root goes, which makes a folder a store.
    So after a kill halfway no file counts as written, and the same call removes the rest.

    Raises:
        StoreError: one of the files is behind a symbolic link.
    """
    names = _own_names(files)
    files.check_inside(names)
    records = open_journal(files.folder)
    try:
        records.add_event(journal.EMPTIED)
        remove_durably([files.root])
        files.remove(names)
        remove_durably(journal.writer_journals(files.folder))
        for folder in sorted({Path(journal.FOLDER)} | {p for name in names for p in Path(name).parents}, reverse=True):
            if folder != Path():
                with suppress(OSError):  # it holds something else, or is not there
                    (files.folder / folder).rmdir()
        records.clear()
    finally:
        records.close()


def _own_names(files: StoreFiles) -> set[str]:
    """Return the relative paths of all files that may belong to a store, except root, journal and lock."""
    names = journal.read_records(files.folder).keys() - {ROOT_RECORD}
    declaring = [files.read_attributes(), *(entry["content"] for entry in journal.root_entries(files.folder))]
    for attributes in declaring:
        with suppress(StoreError):  # gone, or of another version: the journal knows its files
            names |= files.declared(Manifest.from_json(attributes))
    return names | {name for name, file in temporary_files(files.folder) if file in names or file == files.root.name}
