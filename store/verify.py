"""Reading every file of a store and comparing it with the journal, at the speed of the disk."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from threading import local
from typing import Literal

from xxhash import xxh3_64, xxh3_64_hexdigest

from ..errors import StoreError
from ..runtime.text import printable
from . import journal, lock
from .contract import StoreFiles
from .formats import store_files
from .journal import FileRecord, read_records
from .manifest import Manifest
from .objects import N_REQUESTS, ObjectPath, Place
from .stale_scales import stale_scales

N_THREADS = 4
SPAN = 8 * 2**20
"""Bytes read at a time, small enough to stay in a core's cache until they are hashed."""

NOT_SEALED = "not finished: it says that the store is not complete, but every file is there"
OTHER_BYTES = "damaged: its bytes differ from those that were written"
STALE_SCALES = "damaged: its scales belong to earlier channel statistics, as version 0.3.0 left them when rows moved"

Kind = Literal["missing", "damaged", "unfinished", "foreign"]

_buffers = local()


@dataclass(frozen=True)
class Problem:
    """A file that does not agree with the journal or the manifest.

    Attributes:
        file: path relative to the store.
        kind: "missing" and "damaged" files were written before, "unfinished" files never; "foreign" files are not ours.
        what: the kind in words, with details.
    """

    file: str
    kind: Kind
    what: str

    @property
    def line(self) -> str:
        """File and problem for people, made printable: a disk allows any characters in names."""
        return printable(f"{self.file}: {self.what}")


def verify(path: str | Path, progress: Callable[[int], None] = lambda n_bytes: None) -> list[Problem]:
    """Check every file of a store.

    Args:
        path: of the store, or its address.
        progress: called with the size of each file that has been read, from several threads.

    Returns:
        The problems, sorted by file; empty if there are none.

    Raises:
        InputError: an address that is refused.
        MissingError: there is nothing at `path`.
        StoreError: `path` is not a store.
    """
    files = store_files(path)
    manifest, problems = read_root(files)
    records = read_records(files.folder)
    declared = files.declared(manifest)
    recorded = [records[name] for name in sorted(declared & records.keys())]
    with ThreadPoolExecutor(N_THREADS if isinstance(files.folder, Path) else N_REQUESTS) as pool:
        checked = pool.map(lambda record: _check(files.folder, record, progress), recorded)
        problems += [problem for problem in checked if problem is not None]
    found = {problem.file for problem in problems}
    problems += (_damaged(name, STALE_SCALES) for name in stale_scales(files, manifest) if name not in found)
    problems += map(_unfinished, declared - records.keys())
    if not problems and not manifest.complete:  # the writer was killed between the last file and the root
        problems.append(Problem(files.root.name, "unfinished", NOT_SEALED))
    own = {journal.NAME, lock.NAME, files.root.name}
    own |= {f"{journal.FOLDER}/{path.name}" for path in journal.writer_journals(files.folder)}
    problems += map(_foreign, _names(files.folder) - declared - own)
    return sorted(problems, key=lambda problem: problem.file)


def read_root(files: StoreFiles) -> tuple[Manifest, list[Problem]]:
    """Return the manifest and any problem with the root file. If there is one, the journal gives the manifest.

    Raises:
        MissingError: there is nothing.
        StoreError: it is not a store.
    """
    files.check_there()
    if not files.root.exists() and journal.is_being_emptied(files.folder):
        raise StoreError(
            f"probe extract --overwrite of {str(files.path)!r} was stopped halfway; give the same command again"
        )
    entries = journal.root_entries(files.folder)
    content = files.root.read_bytes() if files.root.is_file() else b""
    if not entries or xxh3_64_hexdigest(content) in [entry["xxh3"] for entry in entries]:
        return files.read_manifest(), []
    problem = _damaged(files.root.name) if content else _missing(files.root.name)
    for entry in entries:
        with suppress(StoreError):
            return Manifest.from_json(entry["content"]), [problem]
    raise StoreError(
        f"{str(files.root)!r} is {problem.what}, and so is the copy in its journal; make the store again: probe extract"
    )


def _missing(file: str) -> Problem:
    return Problem(file, "missing", "missing")


def _damaged(file: str, what: str = OTHER_BYTES) -> Problem:
    return Problem(file, "damaged", what)


def _unfinished(file: str) -> Problem:
    return Problem(file, "unfinished", "not finished: the journal does not record it")


def _foreign(file: str) -> Problem:
    return Problem(file, "foreign", "foreign: nothing declares it")


def _check(store: Place, record: FileRecord, progress: Callable[[int], None]) -> Problem | None:
    """Compare one file's size and hash with its record."""
    path = store / record.file
    if isinstance(path, ObjectPath):
        return _check_object(path, record, progress)
    if not hasattr(_buffers, "span"):
        _buffers.span = memoryview(bytearray(SPAN))
    digest = xxh3_64()
    try:
        with open(path, "rb", buffering=0, opener=_open_at_once) as file:
            about = os.fstat(file.fileno())
            if not S_ISREG(about.st_mode):
                return _damaged(record.file, "damaged: it is not a plain file")
            if about.st_size != record.size:
                return _damaged(record.file, f"damaged: {about.st_size} bytes, {record.size} when it was written")
            while n_read := file.readinto(_buffers.span):
                digest.update(_buffers.span[:n_read])
    except (FileNotFoundError, NotADirectoryError):
        return _missing(record.file)
    except OSError as error:
        return _damaged(record.file, f"damaged: it cannot be read: {error.strerror}")
    progress(record.size)
    return None if digest.hexdigest() == record.xxh3 else _damaged(record.file)


def _check_object(path: ObjectPath, record: FileRecord, progress: Callable[[int], None]) -> Problem | None:
    """Compare an object's size and hash with its record. It is read in pieces, so that a failure costs one of them."""
    found, digest = path.head(), xxh3_64()
    if found is None:
        return _missing(record.file)
    if found.size != record.size:
        return _damaged(record.file, f"damaged: {found.size} bytes, {record.size} when it was written")
    for start in range(0, record.size, SPAN):
        [piece] = path.read_ranges([(start, min(start + SPAN, record.size))])
        digest.update(piece)
    progress(record.size)
    return None if digest.hexdigest() == record.xxh3 else _damaged(record.file)


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without blocking: a pipe in its place would wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _names(folder: Place) -> set[str]:
    """Return the relative paths of all files below a folder; none at an address that cannot be listed."""
    if isinstance(folder, ObjectPath):
        return set(folder.bucket.sizes()) if folder.bucket.lists else set()
    return {str((Path(where) / name).relative_to(folder)) for where, _, names in os.walk(folder) for name in names}
