"""Writing files so that a crash, or a power cut, leaves either the old one or the whole new one.

Nothing is written through a symbolic link at the end of a path: in somebody else's store or run it may lead to any file
of the user's.
"""

import os
import shutil
from collections.abc import Iterable
from errno import ELOOP
from pathlib import Path

from ..errors import StoreError


def write_durably(path: Path, data: bytes) -> None:
    """Write `data` to a temporary name beside `path`, fsync it, and rename it."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with os.fdopen(open_new(temporary), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)  # a write that fails does not name its file
        temporary.unlink(missing_ok=True)  # a full disk took part of it
        raise
    rename_durably(temporary, path)


def open_new(path: Path) -> int:
    """Make a file anew for writing, whatever has its name; return its descriptor."""
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)


def open_kept(path: Path, flags: int) -> int:
    """Open a file that is kept and added to, and make it if it is not there; return its descriptor.

    Raises:
        StoreError: the path is a symbolic link.
    """
    try:
        return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno != ELOOP:
            raise
        raise StoreError(f"{str(path)!r} is a symbolic link, and nothing is written through it; remove it") from None


def rename_durably(temporary: Path, path: Path) -> None:
    """Rename a file that is already on disk, and make the new name last too."""
    os.rename(temporary, path)
    _sync_folder(path.parent)


def remove_durably(paths: Iterable[Path]) -> None:
    """Remove files, those that are there, and make it last: none comes back after a power cut."""
    folders = set()
    for path in paths:
        path.unlink(missing_ok=True)
        folders.add(path.parent)
    for folder in folders:
        if folder.exists():
            _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(folder: Path) -> None:
    """Make every file below a folder, and its name, last through a power cut."""
    for where, _, names in os.walk(folder):
        for name in (*names, "."):
            fd = os.open(Path(where) / name, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def free_bytes(path: Path) -> int:
    """Return the free space on the disk that holds, or would hold, a path."""
    path = path.absolute()
    return shutil.disk_usage(next(p for p in (path, *path.parents) if os.path.exists(p))).free
