"""Temporary names of a store's files. Each writer has its own, so that writers do not disturb one another.

A name is `FILE.PLACE-PROCESS-RANDOM.tmp`. PLACE identifies a machine, and a namespace of process numbers on it. A
killed writer leaves its temporary files. The next leader removes them.
"""

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from secrets import token_hex

from xxhash import xxh3_64_hexdigest

from .layout import TEMPORARY
from .objects import ObjectPath, Place

WRITER = r"(?P<place>[0-9a-f]{8})-(?P<process>\d{1,10})-[0-9a-f]{8}"
NAME = re.compile(rf"(?P<file>.+?)(\.{WRITER})?{re.escape(TEMPORARY)}", re.DOTALL)
QUIET_SECONDS = 3600.0
"""A writer on another machine counts as dead if it has not touched its file for this long."""


def new_writer() -> str:
    """Return a name for a writer, which no other writer has."""
    return f"{_place()}-{os.getpid()}-{token_hex(4)}"


def temporary_of(path: Path, writer: str) -> Path:
    """Return a writer's temporary name for a file."""
    return path.with_name(f"{path.name}.{writer}{TEMPORARY}")


def temporary_for(place: Place) -> Path | None:
    """Return a new temporary name for a file. Objects need none: they appear whole."""
    return None if isinstance(place, ObjectPath) else temporary_of(place, new_writer())


def file_of(name: str) -> str | None:
    """Return the file that a temporary name belongs to, or None for another name. It may be a relative path."""
    match = NAME.fullmatch(name)
    return None if match is None else match["file"]


def writer_of(name: str) -> str | None:
    """Return the writer in a temporary name, or None for a name without one, which may be anybody's."""
    match = NAME.fullmatch(name)
    if match is None or match["process"] is None:
        return None
    return name.removeprefix(f"{match['file']}.").removesuffix(TEMPORARY)


def is_left_over(path: Place, writer: str | None = None) -> bool:
    """Whether the writer of a file is dead, or has not touched the file for an hour.

    Args:
        path: of the file.
        writer: name of its writer. By default, it is in the temporary name; without one, no living writer has the file.
    """
    match = NAME.fullmatch(path.name) if writer is None else re.fullmatch(WRITER, writer)
    if match is None or match["process"] is None:
        return True
    if isinstance(path, ObjectPath):  # never appended to, so its reader has all of it
        return True
    if match["place"] == _place():
        return not _is_alive(int(match["process"]))
    with suppress(FileNotFoundError):
        return time.time() - path.lstat().st_mtime > QUIET_SECONDS
    return False


def temporary_files(folder: Place) -> Iterator[tuple[str, str]]:
    """Yield each file below a folder that has a temporary name: its relative path, and the file that it belongs to.

    There are none at an address, where an object appears whole.
    """
    if isinstance(folder, ObjectPath):
        return
    for where, _, names in os.walk(folder):
        for name in names:
            if name.endswith(TEMPORARY):
                path = str((Path(where) / name).relative_to(folder))
                if (file := file_of(path)) is not None:
                    yield path, file


def is_dead_here(writer: str) -> bool:
    """Whether a writer ran on this machine, and is dead."""
    match = re.fullmatch(WRITER, writer)
    return match is not None and match["place"] == _place() and not _is_alive(int(match["process"]))


@cache
def _place() -> str:
    """Return a hash of the machine, its start and the namespace of process numbers."""
    known = [socket.gethostname()]
    with suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        known.append(os.readlink("/proc/self/ns/pid"))
    return xxh3_64_hexdigest("\n".join(known).encode())[:8]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's, or no number of a process
        return True
    return True
