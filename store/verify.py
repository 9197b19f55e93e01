"""Reading everything in a store and comparing it with the journal, at the disk's speed."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local

from xxhash import xxh3_64

from . import journal, lock
from .journal import FileRecord, read_records
from .reader import open_store
from .zarr_store import ROOT

N_THREADS = 4
SPAN = 8 * 2**20
"""Bytes read at a time, small enough to stay in a core's cache until they are hashed."""

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
        MissingError: there is nothing at `path`.
        StoreError: there is no store.
    """
    store = open_store(path)
    records = read_records(store.path)
    declared = {name for split in store.splits for name in store.files.row_files(split)}
    declared |= set(store.files.token_files(store.manifest))
    recorded = [records[name] for name in sorted(declared & records.keys())]
    with ThreadPoolExecutor(N_THREADS) as pool:
        checked = pool.map(lambda record: _check(store.path, record, progress), recorded)
        problems = [problem for problem in checked if problem is not None]
    problems += [Problem(name, "not finished: the journal does not record it") for name in declared - records.keys()]
    problems += [
        Problem(name, "foreign: nothing declares it") for name in _files(store.path) if _foreign(name, declared)
    ]
    return sorted(problems, key=lambda problem: problem.file)


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
        return Problem(record.file, "damaged: its bytes are not those that were written")
    return None


def _files(store: Path) -> Iterator[str]:
    for folder, _, names in os.walk(store):
        for name in names:
            yield str((Path(folder) / name).relative_to(store))


def _foreign(name: str, declared: set[str]) -> bool:
    """Whether a file is neither declared, nor metadata, nor the writer's own."""
    return name not in declared | {journal.NAME, lock.NAME} and not name.endswith(ROOT)
