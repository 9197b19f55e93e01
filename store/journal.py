"""`journal.jsonl`: it records finished files and events. Lines are appended, never rewritten.

The first line of a new journal is {"event": "made", "id": random hex}: it tells a store from another that is made at
the same place later, whose other bytes may all be the same.

A line is one JSON object: {"file": path, "size": bytes, "xxh3": hex} for a finished file, or
{"event": …} for a run's start or end. The root file is recorded as "manifest", with its content, before it is written.
A crash can tear the last line; it is cut off before the next append.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import Any

NAME = "journal.jsonl"
RECORD_KEYS = {"file", "size", "xxh3"}
MARK_BYTES = 2**16
"""So much of a journal's first line is looked at: in older stores it holds the settings of an extraction."""


@dataclass(frozen=True)
class FileRecord:
    """A finished file: its path relative to the store, its size in bytes, its xxh3-64 in hexadecimal."""

    file: str
    size: int
    xxh3: str


def mark_of(beginning: bytes) -> bytes:
    """Return what tells a store from others: the first line of its journal, given its first `MARK_BYTES`."""
    return beginning.split(b"\n", 1)[0]


def read_mark(folder: Path) -> bytes:
    """Return what tells a store from others, or nothing if it has no journal: see `mark_of`."""
    try:
        with open(folder / NAME, "rb") as file:
            return mark_of(file.read(MARK_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return b""


def read_entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a journal; a torn last line and damaged lines count for nothing."""
    path = folder / NAME
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # at worst a file is made again
        if isinstance(entry, dict):
            yield entry


def read_records(folder: Path) -> dict[str, FileRecord]:
    """Return the finished files of a store by relative path."""
    files = (entry for entry in read_entries(folder) if entry.keys() >= RECORD_KEYS)
    return {entry["file"]: FileRecord(entry["file"], entry["size"], entry["xxh3"]) for entry in files}


def finished_files(store: Path) -> dict[str, FileRecord]:
    """Return the recorded files that are still on the disk with the size they had."""
    return {name: record for name, record in read_records(store).items() if is_there(store, record)}


def root_entries(folder: Path) -> list[dict[str, Any]]:
    """Return the last entries of the root file, the latest first: at most two, since a crash may come between."""
    found = [entry for entry in read_entries(folder) if entry.keys() >= {*RECORD_KEYS, "content"}]
    return found[:-3:-1]


def last_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of the last extraction that worked on a store, or on the store that was archived here.

    The dict is empty if none is recorded.
    """
    found = [entry.get("config", entry.get("exported_config")) for entry in read_entries(folder)]
    return next((dict(settings) for settings in reversed(found) if isinstance(settings, dict)), {})


def is_there(store: Path, record: FileRecord) -> bool:
    """Whether a recorded file is on the disk with the size it had."""
    try:
        return (store / record.file).stat().st_size == record.size
    except FileNotFoundError:
        return False


class Journal:
    """The journal of a store that is being written. Safe to append to from several threads."""

    def __init__(self, store: Path) -> None:
        """Open the journal of `store`, cutting off a torn last line."""
        path = store / NAME
        if path.exists() and not (data := path.read_bytes()).endswith(b"\n"):
            os.truncate(path, data.rfind(b"\n") + 1)
        self.records = read_records(store)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._lock = Lock()

    def add_files(self, records: Iterable[FileRecord]) -> None:
        """Record finished files. They are on disk under their final names before this is called."""
        records = list(records)
        with self._lock:
            self._append([vars(record) for record in records])
            self.records |= {record.file: record for record in records}

    def add_root(self, record: FileRecord, content: Mapping[str, Any]) -> None:
        """Record the root file and the manifest in it, before it is written."""
        with self._lock:
            self._append([{**vars(record), "content": content}])

    def add_mark(self) -> None:
        """Record that a store begins here: a random number, by which it differs from any that was here before."""
        self.add_event("made", id=token_hex(16))

    def add_event(self, event: str, **details: Any) -> None:
        """Record details that differ from run to run: times, hosts, paths, batch sizes."""
        with self._lock:
            self._append([{"event": event, **details}])

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
            os.ftruncate(self._fd, before)  # a full disk takes part of a line; the next would stick to it
            raise
