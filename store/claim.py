"""Claiming a path to write a store at: nothing else may be there, and one writer works at a time."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path

from ..errors import NoSpaceError, StoreError
from . import journal, lock
from .contract import ROOT_RECORD, StoreFiles
from .formats import store_files


def check_path(path: Path) -> None:
    """Raise StoreError if something that is no store is in the way; a first run killed early is not."""
    files = store_files(path)
    if files.exists():
        if files.is_compressed():
            raise StoreError(f"{str(path)!r} is compressed: it can be read, but not added to; give another path")
        return
    if files.root.exists() or not _is_fresh(files.folder):
        raise StoreError(f"{str(path)!r} exists and is not a token store; give another path")


def _is_fresh(folder: Path) -> bool:
    """Whether a folder holds nothing, or no more than a writer leaves that was killed before the first root."""
    if not folder.is_dir():
        return not folder.exists()
    if (folder / journal.NAME).is_file():
        return journal.read_records(folder).keys() <= {ROOT_RECORD}
    return all(entry.name == lock.NAME for entry in folder.iterdir())


@contextmanager
def claimed(files: StoreFiles) -> Iterator[None]:
    """Hold the lock of a store, making its folder first; a full disk meanwhile is explained.

    Raises:
        LockedError: another process holds it.
        NoSpaceError: the disk filled up.
    """
    try:
        files.folder.mkdir(parents=True, exist_ok=True)
        with lock.StoreLock(files.folder):
            yield
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        raise NoSpaceError(
            f"the disk of {str(files.path)!r} is full; finished blocks are safe: "
            "free some space, then run the same command again"
        ) from error


def empty(files: StoreFiles) -> None:
    """Remove everything but the lock and an empty journal. After a kill halfway, nothing counts as written."""
    files.root.unlink(missing_ok=True)
    if (files.folder / journal.NAME).exists():
        os.truncate(files.folder / journal.NAME, 0)
    for entry in files.folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name not in (lock.NAME, journal.NAME):
            entry.unlink()
