"""Objects at an address, with the part of `pathlib.Path`'s interface that a store needs.

So the same code serves files and objects. The functions that know the disk (`durable.py`, `lock.py`, `block_file.py`)
treat the two apart. obstore makes the requests, repeats failed ones, and finds credentials in the environment.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from ..errors import AddressError, InputError
from ..runtime.text import printable
from .address import redacted

N_REQUESTS = 16
"""Requests in flight. One connection alone does not fill a network."""
TIMEOUT, CONNECT_TIMEOUT = timedelta(minutes=5), timedelta(seconds=20)
N_RETRIES, RETRY_TIMEOUT = 5, timedelta(minutes=1)
"""Limits of one request, and of the repetitions that obstore makes of it."""
N_TRIES, PAUSE_SECONDS = 4, 0.2
"""Tries of a request whose answer was lost or broke off, each with the repetitions above; the pause between them."""
LARGEST_PUT = 4 * 2**30
"""Most bytes written in one request, below the 5 GiB of S3. Only one request can be conditional."""


Result = TypeVar("Result")


class Found(NamedTuple):
    """What a store of objects says of one: its size in bytes, its version, and when it was written."""

    size: int
    version: str | None
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
        with explained(address):
            self.store = _memory(address) if address.startswith("memory://") else _open(address)

    def sizes(self) -> dict[str, int]:
        """List all objects: sizes in bytes by name."""
        import obstore

        with explained(self.address):
            found = _repeated(lambda: [each for part in obstore.list(self.store) for each in part])
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
                found = _repeated(lambda: obstore.head(self.bucket.store, self.key))
            except FileNotFoundError:
                return None
        return Found(found["size"], found["e_tag"], found["last_modified"])

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
            found = _repeated(lambda: obstore.list_with_delimiter(self.bucket.store, self.key or None))
        names = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        yield from (ObjectPath(self.bucket, name) for name in sorted(names))

    def read_bytes(self) -> bytes:
        """Read the object.

        Raises:
            AddressError: it cannot be read.
            FileNotFoundError: there is none.
        """
        return self.read_with_version()[0]

    def read_with_version(self) -> tuple[bytes, str | None]:
        """Read the object and its version."""
        with explained(self):
            return _repeated(self._get)

    def _get(self) -> tuple[bytes, str | None]:
        import obstore

        answer = obstore.get(self.bucket.store, self.key)
        return bytes(answer.bytes()), answer.meta["e_tag"]

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
                return [_repeated(lambda: obstore.get_range(store, self.key, start=starts[0], end=ends[0]))]
            return list(_repeated(lambda: obstore.get_ranges(store, self.key, starts=starts, ends=ends, coalesce=0)))

    def write(self, data: Any) -> None:
        """Write the object whole, in place of any other; large ones in parts."""
        import obstore

        with explained(self):
            _repeated(lambda: obstore.put(self.bucket.store, self.key, data))
        self.bucket.note(self.key, len(data))

    def write_if(self, data: Any, version: str | None) -> str | None:
        """Write the object in one request, if nobody else has changed it.

        If an answer is lost, the repeated request finds the object that the first one wrote. So the caller compares.

        Args:
            data: its content.
            version: of the object that gives way, or None if there must be none.

        Returns:
            The new version.

        Raises:
            FileExistsError: another object is there, or this one.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        mode: Any = "create" if version is None else {"e_tag": version}
        with explained(self):
            try:
                made = _repeated(lambda: obstore.put(self.bucket.store, self.key, data, mode=mode))
            except (AlreadyExistsError, PreconditionError):
                raise FileExistsError(str(self)) from None
            except (NotSupportedError, NotImplementedError):  # some servers know no conditions
                if version is None and self.head() is not None:
                    raise FileExistsError(str(self)) from None
                made = _repeated(lambda: obstore.put(self.bucket.store, self.key, data))
        self.bucket.note(self.key, len(data))
        return made["e_tag"]

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
            _repeated(lambda: obstore.delete(bucket.store, [path.key for path in paths]))
        except FileNotFoundError:  # the request for many stops at a missing one
            for path in paths:
                with suppress(FileNotFoundError):
                    _repeated(partial(obstore.delete, bucket.store, path.key))
    for path in paths:
        bucket.note(path.key, None)


def _repeated(call: Callable[[], Result]) -> Result:
    """Repeat a request whose answer was lost or broke off. obstore repeats only some of them."""
    from obstore.exceptions import GenericError

    for _ in range(N_TRIES - 1):
        try:
            return call()
        except GenericError:
            time.sleep(PAUSE_SECONDS)
    return call()


def size_of(place: Place) -> int | None:
    """Return the size of a file or an object in bytes, or None if there is none."""
    if isinstance(place, ObjectPath):
        return place.bucket.size_of(place.key)
    try:
        return os.stat(place).st_size
    except OSError:
        return None


@contextmanager
def explained(where: object) -> Iterator[None]:
    """Turn errors of obstore into an AddressError of one line, without secrets."""
    try:
        yield
    except (AddressError, FileExistsError, FileNotFoundError, InputError):
        raise
    except Exception as error:  # obstore has a class for every service's faults, and none above them all
        said = " ".join(str(error).split("Debug source")[0].split()) or type(error).__name__
        raise AddressError(printable(redacted(said))[:600], str(where)) from None


def _open(address: str) -> Any:
    try:
        from obstore.store import from_url
    except ImportError:
        raise InputError(
            f"{address!r} is an address, and reading addresses takes obstore; pip install 'tokenprobe[remote]'"
        ) from None
    if address.startswith("file://"):
        return from_url(address)
    plain = address.startswith("http://") or any(
        os.environ.get(name, "").startswith("http://") for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    )
    limits: Any = {"timeout": TIMEOUT, "connect_timeout": CONNECT_TIMEOUT} | ({"allow_http": True} if plain else {})
    return from_url(
        address, client_options=limits, retry_config={"max_retries": N_RETRIES, "retry_timeout": RETRY_TIMEOUT}
    )


@cache
def _memory(address: str) -> Any:
    """Return objects in the memory of this process: the same ones for the same address."""
    from obstore.store import MemoryStore

    return MemoryStore()
