"""Objects at an address, with the part of `pathlib.Path`'s interface that a store needs.

So the same code serves files and objects. The functions that know the disk (`durable.py`, `lock.py`, `block_file.py`)
treat the two apart. obstore makes the requests, repeats failed ones, and finds credentials in the environment.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from .object_requests import Version, explained, open_address, repeated, version_in

N_REQUESTS = 16
"""Requests in flight. One connection alone does not fill a network."""
LARGEST_PUT = 4 * 2**30
"""Most bytes written in one request, below the 5 GiB of S3. Only one request can be conditional."""


class Found(NamedTuple):
    """What a store of objects says of one: its size in bytes, its version, and when it was written."""

    size: int
    version: Version
    written: datetime


class Bucket:
    """The objects below one address.

    Attributes:
        address: may be shown: it holds no secrets.
        store: obstore's.
        lists: whether the names of its objects can be listed. A plain web server does not.
    """

    def __init__(self, address: str) -> None:
        """Take an address that `check_address` returned.

        Raises:
            AddressError: obstore refuses it.
            InputError: obstore is not installed.
        """
        self.address, self.lists = address, not address.startswith("http")
        self._sizes: dict[str, int] | None = None
        self.store = open_address(address)

    def sizes(self) -> dict[str, int]:
        """List all objects: sizes in bytes by name."""
        import obstore

        with explained(self.address):
            found = repeated(lambda: [each for part in obstore.list(self.store) for each in part])
        self._sizes = {each["path"]: each["size"] for each in found}
        return dict(self._sizes)

    def size_of(self, name: str) -> int | None:
        """Return the size of an object, or None; by a list that is made once and knows what this process changes."""
        if not self.lists:
            found = ObjectPath(self, name).head()
            return None if found is None else found.size
        if self._sizes is None:
            self.sizes()
        assert self._sizes is not None
        return self._sizes.get(name)

    def note(self, name: str, size: int | None) -> None:
        """Note that this process wrote an object, or removed it."""
        if self._sizes is not None:
            if size is None:
                self._sizes.pop(name, None)
            else:
                self._sizes[name] = size


class ObjectPath:
    """An object, or all objects below a name. Nothing is read or written when one is made."""

    def __init__(self, bucket: Bucket, name: str = "") -> None:
        self.bucket, self._path = bucket, PurePosixPath(name)

    @property
    def key(self) -> str:
        """Name below the address of the bucket; empty for the address itself."""
        return "" if self._path == PurePosixPath() else str(self._path)

    @property
    def name(self) -> str:
        """Last part of the name."""
        return self._path.name

    @property
    def stem(self) -> str:
        """Last part of the name, without its suffix."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """Suffix of the name."""
        return self._path.suffix

    @property
    def parent(self) -> "ObjectPath":
        """The name above; the address itself is its own parent."""
        return ObjectPath(self.bucket, str(self._path.parent))

    def __truediv__(self, name: str | Path) -> "ObjectPath":
        return ObjectPath(self.bucket, str(self._path / name))

    def with_name(self, name: str) -> "ObjectPath":
        """Return the name with another last part."""
        return ObjectPath(self.bucket, str(self._path.with_name(name)))

    def relative_to(self, other: "ObjectPath") -> PurePosixPath:
        """Return the name as seen from one above it."""
        return self._path.relative_to(other._path)

    def __str__(self) -> str:
        return f"{self.bucket.address}/{self.key}".rstrip("/")

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def head(self) -> Found | None:
        """Ask for an object's size and version; None if there is none."""
        import obstore

        with explained(self):
            try:
                found = repeated(lambda: obstore.head(self.bucket.store, self.key))
            except FileNotFoundError:
                return None
        return Found(found["size"], version_in(found), found["last_modified"])

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        return self.key != "" and self.head() is not None

    def is_dir(self) -> bool:
        """Whether there is an object below this name."""
        return self.bucket.lists and next(self.iterdir(), None) is not None

    def exists(self) -> bool:
        """Whether there is an object of this name, or below it."""
        return self.is_file() or self.is_dir()

    def is_symlink(self) -> bool:
        """Whether it is a link: never."""
        return False

    def iterdir(self) -> Iterator["ObjectPath"]:
        """Yield the objects of one level below, and the names that have objects below them."""
        import obstore

        with explained(self):
            found = repeated(lambda: obstore.list_with_delimiter(self.bucket.store, self.key or None))
        names = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        yield from (ObjectPath(self.bucket, name) for name in sorted(names))

    def read_bytes(self) -> bytes:
        """Read the object.

        Raises:
            AddressError: it cannot be read.
            FileNotFoundError: there is none.
        """
        return self.read_with_version()[0]

    def read_with_version(self) -> tuple[bytes, Version]:
        """Read the object and its version."""
        with explained(self):
            return repeated(self._get)

    def _get(self) -> tuple[bytes, Version]:
        import obstore

        answer = obstore.get(self.bucket.store, self.key)
        return bytes(answer.bytes()), version_in(answer.meta)

    def read_start(self, n_bytes: int) -> bytes:
        """Read at most the first bytes."""
        found = self.head()
        if found is None:
            raise FileNotFoundError(str(self))
        return b"".join(map(bytes, self.read_ranges([(0, min(n_bytes, found.size))]))) if found.size else b""

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[Any]:
        """Read bytes from start to stop, several ranges at a time; return buffers, shorter at the object's end."""
        import obstore

        store, starts, ends = self.bucket.store, [start for start, _ in ranges], [end for _, end in ranges]
        with explained(self):
            if len(ranges) == 1:
                return [repeated(lambda: obstore.get_range(store, self.key, start=starts[0], end=ends[0]))]
            return list(repeated(lambda: obstore.get_ranges(store, self.key, starts=starts, ends=ends, coalesce=0)))

    def write(self, data: Any) -> None:
        """Write the object whole, in place of any other; large ones in parts."""
        import obstore

        with explained(self):
            repeated(lambda: obstore.put(self.bucket.store, self.key, data))
        self.bucket.note(self.key, len(data))

    def write_if(self, data: Any, version: Version | None) -> Version:
        """Write the object in one request, if nobody else has changed it.

        If an answer is lost, the repeated request finds the object that the first one wrote. So the caller compares.

        Args:
            data: its content.
            version: of the object that gives way, or None if there must be none.

        Returns:
            The new version.

        Raises:
            AddressError: the server does not name versions, or refuses.
            FileExistsError: another object is there, or this one.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        mode: Any = "create" if version is None else version.mode(self)
        with explained(self):
            try:
                made = repeated(lambda: obstore.put(self.bucket.store, self.key, data, mode=mode))
            except (AlreadyExistsError, PreconditionError):
                raise FileExistsError(str(self)) from None
            except (NotSupportedError, NotImplementedError):  # some servers know no conditions
                found = self.head()
                if (None if found is None else found.version) != version:
                    raise FileExistsError(str(self)) from None
                made = repeated(lambda: obstore.put(self.bucket.store, self.key, data))
        self.bucket.note(self.key, len(data))
        return version_in(made)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object; it does not matter if there is none."""
        remove_objects([self])

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: objects need no folders."""

    def rmdir(self) -> None:
        """Do nothing, as `mkdir`."""


Place = Path | ObjectPath
"""Where a file of a store is: on this machine, or at an address."""


def remove_objects(paths: Sequence[ObjectPath]) -> None:
    """Remove objects of one bucket; missing ones are skipped."""
    import obstore

    if not paths:
        return
    bucket = paths[0].bucket
    with explained(bucket.address):
        try:
            repeated(lambda: obstore.delete(bucket.store, [path.key for path in paths]))
        except FileNotFoundError:  # the request for many stops at a missing one
            for path in paths:
                with suppress(FileNotFoundError):
                    repeated(partial(obstore.delete, bucket.store, path.key))
    for path in paths:
        bucket.note(path.key, None)


def size_of(place: Place) -> int | None:
    """Return the size of a file or an object in bytes, or None if there is none."""
    if isinstance(place, ObjectPath):
        return place.bucket.size_of(place.key)
    try:
        return os.stat(place).st_size
    except OSError:
        return None


def version_of(place: Place) -> object:
    """Return what changes whenever a file or an object is replaced, or None if there is none."""
    if isinstance(place, ObjectPath):
        found = place.head()
        return None if found is None else (found.version, found.size, found.written)
    try:
        with open(place, "rb") as file:  # unlike asking by name, opening sees a change of another machine on NFS
            about = os.fstat(file.fileno())
    except OSError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns
