"""An advisory lock for one leader at a time. The kernel drops it when its holder dies.

Some shared file systems have no locks, or locks that other machines do not see. So no promise rests on them:
a lock only spares people a second command that does the same work.
"""

import fcntl
import os
import socket
from errno import EINVAL, ENOLCK, ENOSYS, ENOTSUP
from pathlib import Path
from types import TracebackType
from weakref import WeakSet

from ..errors import LockedError
from ..runtime.text import printable
from .durable import open_kept
from .objects import ObjectPath, Place

NAME = ".lock"
NO_LOCKS = (ENOSYS, ENOTSUP, ENOLCK, EINVAL)
"""Errors of file systems that have no locks."""
HOLDER = "process "
"""First characters of the file; the rest is for people."""


def is_ours(path: Place) -> bool:
    """Whether a file is a lock: it is empty, or names a process."""
    if isinstance(path, ObjectPath):
        return HOLDER.encode().startswith(path.read_start(len(HOLDER)))
    with open(path, "rb") as file:
        held = file.read(len(HOLDER))
    return HOLDER.encode().startswith(held)


class StoreLock:
    """Exclusive lock on a store, held during a `with` block.

    A forked child, such as a DataLoader worker, would inherit the descriptor and so the lock, and hold it after its
    parent is killed. So every child closes it at birth.
    """

    def __init__(self, store: Path) -> None:
        self._path = store / NAME
        self._fd = -1

    def __enter__(self) -> "StoreLock":
        """Take the lock.

        Raises:
            LockedError: another process holds it; the message names the process.
            StoreError: the lock file is a symbolic link.
        """
        fd = open_kept(self._path, os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if not isinstance(error, BlockingIOError) and error.errno in NO_LOCKS:
                os.close(fd)
                return self
            if not isinstance(error, BlockingIOError):
                os.close(fd)
                raise
            holder = printable(os.pread(fd, 200, 0).decode(errors="replace")) or "another process"
            os.close(fd)
            raise LockedError(
                f"{str(self._path.parent)!r} is being written by {holder}; wait for it, or write to another folder"
            ) from None
        self._fd = fd
        _held.add(self)
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{HOLDER}{os.getpid()} on {socket.gethostname()}".encode(), 0)
        except OSError:  # the disk is full
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _held.discard(self)
        self.close()

    def close(self) -> None:
        """Close the descriptor. In the process that took the lock, this releases it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_held: WeakSet[StoreLock] = WeakSet()


def _close_in_child() -> None:
    for lock in list(_held):
        lock.close()
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
