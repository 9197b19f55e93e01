"""Durable writes: a crash or a power cut leaves either the old file or the complete new one.

No write follows a symbolic link at the end of a path: in somebody else's store or run, the link may lead to any of the
user's files.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from errno import ELOOP, EMLINK, ENOSYS, ENOTSUP, EPERM
from pathlib import Path

from ..errors import StoreError
from .object_requests import Version
from .objects import LARGEST_PUT, ObjectPath, Place, remove_objects

NO_LINKS = (EPERM, ENOSYS, ENOTSUP, EMLINK)
"""Errors of file systems that have no hard links."""
FOLDER_TRIES = 20


def write_durably(
    path: Place, data: bytes | memoryview, temporary: Path | None = None, *, replace: bool = True
) -> None:
    """Write `data` to a temporary name beside `path`, fsync it, and rename it. Objects are written whole anyway.

    Args:
        path: of the file.
        data: its content.
        temporary: a name of this process's own, if other processes may write the same file at the same time.
        replace: whether a file of the same size gives way. See `publish`.
    """
    if isinstance(path, ObjectPath):
        if replace:
            path.write(data)
        else:
            publish_object(path, data)
        return
    temporary = temporary or path.with_name(path.name + ".tmp")
    try:
        with os.fdopen(open_new(temporary), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)  # the error of a failed write does not name its file
        temporary.unlink(missing_ok=True)  # a full disk took part of it
        raise
    if replace:
        rename_durably(temporary, path)
    else:
        publish(temporary, path, len(data))


def publish(temporary: Path, path: Path, size: int, stays: Callable[[], bool] = lambda: True) -> bool:
    """Give a file on disk its final name, unless another writer's file of that size has it. Sync the name.

    The other file stays: its writer may have recorded it, and its bytes may differ. A file of another size is damaged
    and gives way. Hard links decide between writers at once. Without them, two may pass the check together.

    Args:
        temporary: the file, which is gone afterwards.
        path: the final name.
        size: bytes of the file.
        stays: asked whether another file of that size stays.

    Returns:
        Whether this file has the name.
    """
    try:
        is_ours = take_name(temporary, path)
    except FileNotFoundError:  # a leader found the store complete, and cleared temporary files away
        if not path.is_file() or path.stat().st_size != size:
            raise
        return False
    if not is_ours and (path.is_symlink() or path.stat().st_size != size or not stays()):
        os.rename(temporary, path)
        is_ours = True
    temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return is_ours


def take_name(temporary: Path, path: Path) -> bool:
    """Give a file a free name; return False if another file has the name.

    Hard links decide between processes at once. Without them, two may pass the check together. The temporary name may
    stay.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(path):
            return False
        os.rename(temporary, path)
    return True


def publish_object(path: ObjectPath, data: bytes | memoryview, stays: Callable[[], bool] = lambda: True) -> bool:
    """Write an object, unless another writer's object of that size is there. See `publish`.

    An object that gives way is replaced on condition that it is still the one that was looked at. The conditions hold
    for one request. Very large objects take several, so two writers may pass the check together.

    Returns:
        Whether this object is there.
    """
    version: Version | None = None
    while True:
        try:
            if len(data) <= LARGEST_PUT:
                path.write_if(data, version)
                return True
        except (FileExistsError, FileNotFoundError):  # the second: another process removed the version looked at
            pass
        found = path.head()
        if found is not None and found.size == len(data) and stays():
            path.bucket.note(path.key, found.size)
            return False
        if len(data) > LARGEST_PUT:
            path.write(data)
            return True
        version = None if found is None else found.version


def open_new(path: Path) -> int:
    """Create a file for writing, replacing any file of that name; return its descriptor."""
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)


def open_kept(path: Path, flags: int) -> int:
    """Open a file that keeps its content, or create it; return its descriptor.

    Raises:
        StoreError: the path is a symbolic link.
    """
    try:
        return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno != ELOOP:
            raise
        raise StoreError(f"{str(path)!r} is a symbolic link, which is never written through; remove it") from None


def open_in_shared_folder(path: Path, flags: int) -> int:
    """Open a file as `open_kept` does. Its folder is made, and another process may remove it whenever it is empty."""
    for _ in range(FOLDER_TRIES):
        with suppress(FileExistsError, FileNotFoundError):
            path.parent.mkdir(exist_ok=True)
            return open_kept(path, flags)
    path.parent.mkdir(exist_ok=True)
    return open_kept(path, flags)


def rename_durably(temporary: Path, path: Path) -> None:
    """Rename a file that is already on disk, and sync the new name."""
    os.rename(temporary, path)
    _sync_folder(path.parent)


def remove_durably(paths: Iterable[Place]) -> None:
    """Remove files and sync their folders, so that no file comes back after a power cut. Missing files are skipped."""
    folders, paths = set(), list(paths)
    remove_objects([path for path in paths if isinstance(path, ObjectPath)])
    for path in (path for path in paths if isinstance(path, Path)):
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
    """Sync every file and folder below a folder, so that they survive a power cut."""
    for where, _, names in os.walk(folder):
        for name in (*names, "."):
            fd = os.open(Path(where) / name, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def free_bytes(path: Path) -> int:
    """Return the free bytes on the disk that holds a path, or would hold it."""
    path = path.absolute()
    return shutil.disk_usage(next(p for p in (path, *path.parents) if os.path.exists(p))).free
