"""A file that grows out of sight until it is published whole, under its name on the disk or at an address."""

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

from .durable import open_new, publish, publish_object
from .objects import ObjectPath, Place
from .temporaries import temporary_of


class NewFile:
    """Grows under a temporary name beside its own.

    Attributes:
        fd: descriptor to write to; -1 once it is closed.
    """

    def __init__(self, path: Path, writer: str) -> None:
        self._path, self._temporary = path, temporary_of(path, writer)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.fd = open_new(self._temporary)

    def publish(self, size: int, stays: Callable[[], bool] = lambda: True) -> bool:
        """Make the file durable and give it its name; return False if another writer's file has it and stays."""
        os.fsync(self.fd)
        self._close()
        return publish(self._temporary, self._path, size, stays)

    def abandon(self) -> None:
        """Remove the file if it is unpublished."""
        self._close()
        self._temporary.unlink(missing_ok=True)

    def _close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class NewObject:
    """Grows in a file without a name in the temporary folder (`TMPDIR`). The file goes when its process does.

    Attributes:
        fd: descriptor to write to.
    """

    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        self._file = TemporaryFile(buffering=0)  # noqa: SIM115
        self.fd = self._file.fileno()

    def publish(self, size: int, stays: Callable[[], bool] = lambda: True) -> bool:
        """Upload the file; return False if another writer's object is there and stays."""
        content = mmap.mmap(self.fd, size, access=mmap.ACCESS_READ)  # not closed here: obstore may hold it a bit longer
        is_ours = publish_object(self._path, memoryview(content), stays)
        self._file.close()
        return is_ours

    def abandon(self) -> None:
        """Drop the file if it is unpublished."""
        self._file.close()


def new_file(place: Place, writer: str) -> NewFile | NewObject:
    """Begin the file of a name on the disk or at an address; `writer` is its writer's name."""
    return NewObject(place) if isinstance(place, ObjectPath) else NewFile(place, writer)
