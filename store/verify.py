"""Reading everything in a store and comparing it with the journal, at the disk's speed."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local

from xxhash import xxh3_64, xxh3_64_hexdigest

from ..errors import MissingError
from . import journal, lock
from .contract import StoreFiles
from .formats import local_path, store_files
from .journal import FileRecord, read_records
from .manifest import Manifest

N_THREADS = 4
SPAN = 8 * 2**20
"""Bytes read at a time, small enough to stay in a core's cache until they are hashed."""

DAMAGED = "damaged: its bytes are not those that were written"

_buffers = local()


@dataclass(frozen=True)
class Problem:
    """Something that is not as the journal and the manifest say.

    Attributes:
        file: path relative to the store.
        what: "missing", "damaged", "not finished" or "foreign", with details.
    """

    file: str
    what: str


def verify(path: str | Path, progress: Callable[[int], None] = lambda n_bytes: None) -> list[Problem]:
    """Check every file of a store.

    Args:
        path: of the store.
        progress: called with the size of each file that has been read, from several threads.

    Returns:
        What is wrong, sorted by file; an empty list if all is well.

    Raises:
        InputError: `path` is an address.
        MissingError: there is nothing at `path`.
        StoreError: there is no store.
    """
    files = store_files(local_path(path))
    manifest, problems = read_root(files)
    records = read_records(files.folder)
    declared = files.declared(manifest)
    recorded = [records[name] for name in sorted(declared & records.keys())]
    with ThreadPoolExecutor(N_THREADS) as pool:
        checked = pool.map(lambda record: _check(files.folder, record, progress), recorded)
        problems += [problem for problem in checked if problem is not None]
    problems += [Problem(name, "not finished: the journal does not record it") for name in declared - records.keys()]
    own = {journal.NAME, lock.NAME, files.root.name}
    problems += [Problem(name, "foreign: nothing declares it") for name in _names(files.folder) - declared - own]
    return sorted(problems, key=lambda problem: problem.file)


def read_root(files: StoreFiles) -> tuple[Manifest, list[Problem]]:
    """Return the manifest, from the journal if the root file is not as recorded, and what is wrong with the file.

    Raises:
        MissingError: there is nothing.
        StoreError: there is no store.
    """
    if not files.root.exists() and not files.folder.exists():
        raise MissingError(f"no store at {str(files.path)!r}; make one with probe extract")
    entries = journal.root_entries(files.folder)
    content = files.root.read_bytes() if files.root.is_file() else b""
    if entries and xxh3_64_hexdigest(content) not in [entry["xxh3"] for entry in entries]:
        what = DAMAGED if content else "missing"
        return Manifest.from_json(entries[0]["content"]), [Problem(files.root.name, what)]
    return files.read_manifest(), []


def _check(store: Path, record: FileRecord, progress: Callable[[int], None]) -> Problem | None:
    """Compare one file's size and hash with its record."""
    if not hasattr(_buffers, "span"):
        _buffers.span = memoryview(bytearray(SPAN))
    digest, size = xxh3_64(), 0
    try:
        with open(store / record.file, "rb", buffering=0) as file:
            while n_read := file.readinto(_buffers.span):
                digest.update(_buffers.span[:n_read])
                size += n_read
    except FileNotFoundError:
        return Problem(record.file, "missing")
    progress(size)
    if size != record.size:
        return Problem(record.file, f"damaged: {size} bytes, {record.size} when it was written")
    if digest.hexdigest() != record.xxh3:
        return Problem(record.file, DAMAGED)
    return None


def _names(folder: Path) -> set[str]:
    """Return the relative paths of all files below a folder."""
    return {str((Path(where) / name).relative_to(folder)) for where, _, names in os.walk(folder) for name in names}
