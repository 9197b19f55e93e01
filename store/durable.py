"""Writing files so that a crash, or a power cut, leaves either the old one or the whole new one."""

import os
from pathlib import Path


def write_durably(path: Path, data: bytes) -> None:
    """Write `data` to a temporary name beside `path`, fsync it, and rename it."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)  # a full disk took part of it
        raise
    rename_durably(temporary, path)


def rename_durably(temporary: Path, path: Path) -> None:
    """Rename a file that is already on disk, and make the new name last too."""
    os.rename(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sync_tree(folder: Path) -> None:
    """Make every file below a folder, and its name, last through a power cut."""
    for where, _, names in os.walk(folder):
        for name in (*names, "."):
            fd = os.open(Path(where) / name, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
