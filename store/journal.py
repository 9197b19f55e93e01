"""`journal.jsonl` records finished files and events. Lines are appended, never rewritten.

Only the leader of a store appends to it. Every other writer has a journal of its own, `journal.d/WRITER.jsonl`, with
records of files alone. Readers read all of them; where two disagree on a file, the leader's record counts. The leader
copies the others' records into its own journal (`merge.py`).

The first line of a new journal is {"event": "made", "id": random hex}. The id identifies the store: a store made later
at the same place has another id, even if all its other bytes are the same.

A line is one JSON object: {"file": path, "size": bytes, "xxh3": hex} for a finished file, or
{"event": …} for a run's start or end. The root file is recorded as "manifest", with its content, before it is written.
{"event": "removed", "files": [path, …]} cancels the records of files, before they are removed.
A crash can tear the last line; it is cut off before the next append.

A journal is not trusted. Lines that are not such objects are ignored, and so are paths that lead out of the store.
"""

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import Any

from xxhash import xxh3_64_hexdigest

from ..errors import StoreError
from .checked import UnfitError, parse, read_all
from .durable import open_in_shared_folder, open_kept
from .objects import ObjectPath, Place, size_of

NAME, FOLDER, SUFFIX = "journal.jsonl", "journal.d", ".jsonl"
EMPTIED = "emptied"
"""Event before all recorded files are removed, because the store is made anew."""
REMOVED = "removed"
"""Event before some files are removed: the journal no longer vouches for them."""
RECORD_KEYS = {"file", "size", "xxh3"}
BEGINNINGS = (b'{"event": "', b'{"file": "')
"""How every line begins, in the bytes that `json.dumps` writes."""
MARK_BYTES = 2**16
"""Bytes compared of a journal's first line. In older stores the line holds the settings of an extraction."""
LONGEST_PATH, OUTSIDE = 1000, {"", ".", ".."}
"""Most characters in a path, and path parts that lead elsewhere. An absolute path begins with an empty part."""


@dataclass(frozen=True)
class FileRecord:
    """A finished file: its path relative to the store, its size in bytes, its xxh3-64 in hexadecimal."""

    file: str
    size: int
    xxh3: str


def read_mark(folder: Place) -> bytes:
    """Return the mark that identifies a store: the first line of its journal; empty without one."""
    path = folder / NAME
    if isinstance(path, ObjectPath):
        try:
            return path.read_start(MARK_BYTES).split(b"\n", 1)[0]
        except FileNotFoundError:
            return b""
    if not path.is_file():
        return b""
    with open(path, "rb") as file:
        return file.read(MARK_BYTES).split(b"\n", 1)[0]


def is_ours(path: Place) -> bool:
    """Whether a file is a journal: empty, or made of whole lines in our format, the last perhaps torn."""
    *lines, torn = path.read_bytes().split(b"\n")
    whole = all(line.startswith(BEGINNINGS) and _entry(line) is not None for line in lines)
    return whole and any(torn.startswith(start) or start.startswith(torn) for start in BEGINNINGS)


def is_being_emptied(folder: Place) -> bool:
    """Whether the last entry of a journal is `EMPTIED`."""
    path = folder / NAME
    if not path.is_file() or not is_ours(path):
        return False
    *_, last = [{}, *read_entries(folder)]
    return last.get("event") == EMPTIED


def read_entries(folder: Place) -> Iterator[dict[str, Any]]:
    """Yield the entries of a journal. A torn last line and damaged lines are skipped.

    Raises:
        StoreError: the journal exists but cannot be read.
    """
    yield from filter(None, map(_entry, _lines(folder)))


def writer_journals(folder: Place) -> list[Place]:
    """Return the journals of the writers that are not the leader. A link in their folder's place is not followed."""
    if (folder / FOLDER).is_symlink() or not (folder / FOLDER).is_dir():
        return []
    return sorted((path for path in (folder / FOLDER).iterdir() if path.suffix == SUFFIX), key=str)


def _lines(folder: Place) -> list[bytes]:
    """Return the lines of all journals, the leader's last: the last record of a file counts.

    The leader removes a writer's journal only once its own has the records. So it is read after the others.
    """
    lines = [line for of_one in _lines_of(writer_journals(folder)) for line in of_one]
    return lines + _lines_of([folder / NAME])[0]


def _lines_of(paths: Sequence[Place]) -> list[list[bytes]]:
    """Return the whole lines of each journal; none of a missing one."""
    try:
        return [[] if text is None else text.split(b"\n")[:-1] for text in read_all(paths)]
    except OSError as error:
        raise StoreError(f"cannot read the journal {error.filename!r}: {error.strerror}") from error


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = parse(line)
    except UnfitError:
        return None  # at worst a file is made again
    return entry if isinstance(entry, dict) else None


def read_records(folder: Place) -> dict[str, FileRecord]:
    """Return the finished files of a store by relative path. The leader's record counts, and is read last."""
    others = records_of(writer_journals(folder))
    return {name: record for each in [*others, *records_of([folder / NAME])] for name, record in each.items()}


def leader_records(folder: Place) -> list[FileRecord]:
    """Return the records in the leader's journal that no later line cancels, in the order they were appended."""
    return _standing(filter(None, map(_entry, _lines_of([folder / NAME])[0])))


def records_of(paths: Sequence[Place]) -> list[dict[str, FileRecord]]:
    """Return the records of each of several journals, by relative path of the files."""
    return [_records(filter(None, map(_entry, lines))) for lines in _lines_of(paths)]


def records_in(text: bytes) -> dict[str, FileRecord]:
    """Return the records in the whole lines of a journal's content."""
    return _records(filter(None, map(_entry, text.split(b"\n")[:-1])))


def find_records(folder: Place, files: Collection[str]) -> dict[str, FileRecord]:
    """Return the records of a few files, by relative path. Other lines are not parsed: a journal may be long."""
    names, found = [json.dumps(name).encode() for name in files], dict[str, FileRecord]()
    for lines in [*_lines_of(writer_journals(folder)), *_lines_of([folder / NAME])]:
        found |= _records(filter(None, (_entry(line) for line in lines if any(name in line for name in names))))
    return {name: record for name, record in found.items() if name in files}


def _records(entries: Iterable[dict[str, Any]]) -> dict[str, FileRecord]:
    return {record.file: record for record in _standing(entries)}


def _standing(entries: Iterable[dict[str, Any]]) -> list[FileRecord]:
    """Return the records in one journal, in order, without those that a later entry cancels."""
    standing: list[FileRecord] = []
    for entry in entries:
        if (record := _record(entry)) is not None:
            standing.append(record)
        elif entry.get("event") == REMOVED and isinstance(entry.get("files"), list):
            gone = set(map(str, entry["files"]))
            standing = [record for record in standing if record.file not in gone]
    return standing


def _record(entry: Mapping[str, Any]) -> FileRecord | None:
    """Return the record in an entry, or None if the entry has none or names a file outside the store."""
    if not entry.keys() >= RECORD_KEYS:
        return None
    file, size, xxh3 = entry["file"], entry["size"], entry["xxh3"]
    if not (type(file) is type(xxh3) is str and type(size) is int and 0 <= size < 2**63):
        return None
    inside = file.isprintable() and len(file) <= LONGEST_PATH and not OUTSIDE & set(file.split("/"))
    return FileRecord(file, size, xxh3) if inside else None


def finished_files(store: Place) -> dict[str, FileRecord]:
    """Return the recorded files that are on the disk with their recorded size."""
    return {name: record for name, record in read_records(store).items() if is_there(store, record)}


def root_entries(folder: Place) -> list[dict[str, Any]]:
    """Return the last two entries of the root file, latest first. After a crash, the file may match either."""
    entries = (_entry(line) for line in reversed(_lines(folder)) if b'"content"' in line)
    found = (entry for entry in entries if entry and isinstance(entry.get("content"), dict) and _record(entry))
    return list(islice(found, 2))


def is_there(store: Place, record: FileRecord) -> bool:
    """Whether a recorded file is there with its recorded size."""
    return size_of(store / record.file) == record.size


def file_records(store: Place, names: Collection[str]) -> list[FileRecord]:
    """Make the records of complete small files."""
    found = zip(names, read_all([store / name for name in names]), strict=True)
    return [FileRecord(name, len(data), xxh3_64_hexdigest(data)) for name, data in found if data is not None]


def file_record(store: Place, name: str) -> FileRecord:
    """Make the record of a complete file. The whole file is read into memory."""
    data = (store / name).read_bytes()
    return FileRecord(name, len(data), xxh3_64_hexdigest(data))


class Journal:
    """The journal of one writer. Several of its threads may append.

    Attributes:
        records: the finished files by relative path: those in this journal, and those that the writer added.
    """

    def __init__(self, store: Path, writer: str | None = None) -> None:
        """Open a journal of `store`, cutting off a torn last line.

        Args:
            store: folder of the store.
            writer: name of the writer; by default the leader.

        Raises:
            StoreError: the journal, or the folder of the writers' journals, is a symbolic link.
        """
        if writer is None:
            self._fd = open_kept(store / NAME, os.O_RDWR | os.O_APPEND)
        elif (store / FOLDER).is_symlink():
            raise StoreError(f"{str(store / FOLDER)!r} is a symbolic link, which is never written through")
        else:
            self._fd = open_in_shared_folder(store / FOLDER / f"{writer}{SUFFIX}", os.O_RDWR | os.O_APPEND)
        data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)  # a leader may have removed the name already
        if not data.endswith(b"\n"):
            os.ftruncate(self._fd, data.rfind(b"\n") + 1)
        self.records = records_in(data)
        self._lock = Lock()

    def add_files(self, records: Iterable[FileRecord]) -> None:
        """Record finished files. They are on disk under their final names before this is called."""
        records = list(records)
        with self._lock:
            self._append([vars(record) for record in records])
            self.records |= {record.file: record for record in records}

    def take(self, records: Iterable[FileRecord]) -> None:
        """Take over records of other journals, which may be removed afterwards."""
        if records := list(records):
            self.add_files(records)

    def add_root(self, record: FileRecord, content: Mapping[str, Any]) -> None:
        """Record the root file and the manifest in it, before it is written."""
        with self._lock:
            self._append([{**vars(record), "content": content}])

    def add_mark(self) -> None:
        """Record a random id. It distinguishes the store from earlier ones at the same place."""
        self.add_event("made", id=token_hex(16))

    def add_event(self, event: str, **details: Any) -> None:
        """Record details that differ from run to run: times, hosts, paths, batch sizes."""
        with self._lock:
            self._append([{"event": event, **details}])

    def cancel(self, files: Iterable[str]) -> None:
        """Cancel the records of files that are about to be removed."""
        with self._lock:
            if gone := sorted(self.records.keys() & set(files)):
                self._append([{"event": REMOVED, "files": gone}])
                self.records = {name: record for name, record in self.records.items() if name not in set(gone)}

    def know(self, records: Mapping[str, FileRecord]) -> None:
        """Count files that other writers recorded as finished too."""
        with self._lock:
            self.records = {**records, **self.records}

    def clear(self) -> None:
        """Remove all lines."""
        with self._lock:
            os.ftruncate(self._fd, 0)
            self.records = {}

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _append(self, entries: list[dict[str, Any]]) -> None:
        before = os.fstat(self._fd).st_size
        lines = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
        try:
            while lines:
                lines = lines[os.write(self._fd, lines) :]
            os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, before)  # a full disk may leave part of a line, which would spoil the next one
            raise
