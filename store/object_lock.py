"""A lock for one leader of a store at an address: an object that only one process can create.

No promise rests on it: see `object_journal.py`. A leader renews its lock while it lives. A lock that has not been
renewed for ten minutes counts as left over; on the machine of a leader that died, at once.
"""

import os
import socket
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from types import TracebackType

from ..errors import AddressError, LockedError
from ..runtime.text import printable
from .lock import HOLDER, NAME, StoreLock
from .object_requests import Version
from .objects import ObjectPath, Place
from .temporaries import is_dead_here, new_writer

RENEWED_SECONDS = 60.0
QUIET = timedelta(minutes=10)


def lock_of(folder: Place) -> "StoreLock | ObjectLock":
    """Return the lock of a store, to be held during a `with` block."""
    return ObjectLock(folder) if isinstance(folder, ObjectPath) else StoreLock(folder)


class ObjectLock:
    """Exclusive lock on a store at an address, held during a `with` block."""

    def __init__(self, folder: ObjectPath) -> None:
        self._path, self._folder = folder / NAME, folder
        self._writer = new_writer()
        self._text = f"{HOLDER}{os.getpid()} on {socket.gethostname()}, {self._writer}".encode()
        self._version: Version | None = None
        self._done = Event()
        self._thread = Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "ObjectLock":
        """Take the lock.

        Raises:
            AddressError: the address cannot be written to.
            LockedError: another process holds it; the message names the process.
        """
        try:
            self._version = self._path.write_if(self._text, None)
        except FileExistsError:
            self._take_over()
        self._thread.start()
        return self

    def _take_over(self) -> None:
        """Replace a lock that its holder left, or raise LockedError."""
        found = self._path.head()
        held, version = self._path.read_with_version() if found is not None else (b"", None)
        if found is not None and held != self._text:  # equal if only the answer to our request was lost
            holder, _, writer = printable(held[:200].decode(errors="replace")).rpartition(", ")
            quiet = datetime.now(UTC) - found.written
            if not is_dead_here(writer) and quiet < QUIET:
                raise LockedError(
                    f"{str(self._folder)!r} is being written by {holder or writer or 'another process'}; wait for it, "
                    f"or write to another address. If it was killed, its lock expires within {QUIET.seconds // 60} min"
                )
        try:
            self._version = self._path.write_if(self._text, version)
        except FileExistsError:
            raise LockedError(f"{str(self._folder)!r} is being written by another process; wait for it") from None

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        with suppress(AddressError, FileNotFoundError):
            if self._path.read_bytes() == self._text:
                self._path.unlink()

    def _renew(self) -> None:
        while not self._done.wait(RENEWED_SECONDS):
            with suppress(AddressError):  # the network may come back
                try:
                    self._version = self._path.write_if(self._text, self._version)
                except FileExistsError:
                    if not self._is_still_ours():  # another leader took it over; the journal stops this one
                        return

    def _is_still_ours(self) -> bool:
        """Whether our text is there: only the answer to a renewal was lost. Its version is then the current one."""
        try:
            held, self._version = self._path.read_with_version()
        except FileNotFoundError:
            return False
        return held == self._text
