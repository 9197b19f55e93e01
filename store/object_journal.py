"""The journal of a store at an address. Nothing can be appended to an object, so each line or few are an object.

A writer records finished files in `journal.d/WRITER.NUMBER.jsonl`. The leader keeps `journal.jsonl`, as on a disk, but
writes it whole, and only if nobody else wrote it meanwhile. So two leaders cannot both go on, whatever their locks say.
The leader copies the small objects into it, and then removes them. A complete store has the files of a local one.
"""

import json
from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Any

from ..errors import LockedError
from .journal import FOLDER, NAME, RECORD_KEYS, SUFFIX, FileRecord, Journal, records_in
from .object_requests import Version
from .objects import ObjectPath, Place, remove_objects
from .temporaries import new_writer

MOST_OBJECTS = 256
"""Small objects of a leader before it copies them."""


def open_journal(folder: Place, writer: str | None = None) -> Journal:
    """Open a journal of a store for writing: the leader's, or that of another writer. See `Journal`."""
    return ObjectJournal(folder, writer) if isinstance(folder, ObjectPath) else Journal(folder, writer)


class ObjectJournal(Journal):
    """The journal of one writer of a store at an address. Several of its threads may append."""

    def __init__(self, folder: ObjectPath, writer: str | None = None) -> None:
        """Read the leader's journal, if this is the leader's; see `Journal`."""
        self._folder, self._leads, self._writer = folder, writer is None, writer or new_writer()
        self._small: list[tuple[ObjectPath, bytes]] = []
        self._n_made = 0
        self._text = b""
        self._version: Version | None = None
        if self._leads:
            self._read()
        self._recorded = records_in(self._text)
        self.records = dict(self._recorded)
        self._lock = Lock()

    def take(self, records: Iterable[FileRecord]) -> None:
        """See `Journal.take`: they are in `journal.jsonl` afterwards, and so are this journal's own."""
        records = list(records)
        with self._lock:
            if records or self._small:
                self._rewrite(_lines(map(vars, records)))
            self.records |= {record.file: record for record in records}

    def clear(self) -> None:
        """Remove all lines."""
        with self._lock:
            remove_objects([path for path, _ in self._small])
            self._text, self._small = b"", []
            self._rewrite(b"")
            self.records = {}

    def close(self) -> None:
        """Do nothing: every line is written."""

    def _append(self, entries: list[dict[str, Any]]) -> None:
        lines = _lines(entries)
        if self._leads and (len(self._small) >= MOST_OBJECTS or any(map(self._is_for_all, entries))):
            self._rewrite(lines)
        elif lines:
            self._n_made += 1
            path = self._folder / FOLDER / f"{self._writer}.{self._n_made:06}{SUFFIX}"
            path.write(lines)
            self._small.append((path, lines))

    def _is_for_all(self, entry: Mapping[str, Any]) -> bool:
        """Whether an entry belongs in `journal.jsonl`: it records no file, or contradicts a record there."""
        before = self._recorded.get(entry.get("file", ""))
        return entry.keys() != RECORD_KEYS or (before is not None and vars(before) != entry)

    def _rewrite(self, lines: bytes) -> None:
        """Write `journal.jsonl` with this journal's small objects and further lines at its end."""
        text = self._text + b"".join(small for _, small in self._small) + lines
        path = self._folder / NAME
        try:
            self._version = path.write_if(text, self._version)
        except FileExistsError:
            there, version = path.read_with_version() if path.is_file() else (None, None)
            if there != text:  # else only the answer to our request was lost
                raise LockedError(
                    f"another process began to lead {str(self._folder)!r}, so this one stops; finished blocks are "
                    "safe. Run the same command again once the other has ended"
                ) from None
            self._version = version
        self._text, self._recorded = text, records_in(text)
        remove_objects([path for path, _ in self._small])
        self._small = []

    def _read(self) -> None:
        """Read `journal.jsonl`; a torn last line, in a copy of a local store, is left out."""
        try:
            text, self._version = (self._folder / NAME).read_with_version()
        except FileNotFoundError:
            return
        self._text = text[: text.rfind(b"\n") + 1]


def _lines(entries: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
