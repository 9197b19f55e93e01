"""Requests to a store of objects: how it is opened, how requests are repeated, and what their errors say."""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple, TypeVar

from ..errors import AddressError, InputError
from ..runtime.address import redacted
from ..runtime.text import printable

TIMEOUT, CONNECT_TIMEOUT = timedelta(minutes=5), timedelta(seconds=20)
N_RETRIES, RETRY_TIMEOUT = 5, timedelta(minutes=1)
"""Limits of one request, and of the repetitions that obstore makes of it."""
N_TRIES, PAUSE_SECONDS = 4, 0.2
"""Tries of a request whose answer was lost or broke off, each with the repetitions above; the pause between them."""
ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
"""Variables that name another server, for each kind of address."""
VARIABLES = {"s3": ("AWS_",), "gs": ("GOOGLE_", "SERVICE_ACCOUNT"), "az": ("AZURE_",)}
"""Beginnings of the names of variables that obstore reads, for each kind of address."""
SERVICES, SECRET_WORDS = (
    tuple(name for names in VARIABLES.values() for name in names),
    ("KEY", "SECRET", "TOKEN", "SAS", "CREDENTIALS", "SERVICE_ACCOUNT"),
)
"""Parts of the names of variables that hold credentials, or the path of a file with some."""
OF_JSON = "SERVICE_ACCOUNT_KEY"
"""End of the names of variables that hold JSON, which may have several lines."""
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
PANIC = "PanicException"
"""Class of obstore's errors for what it did not foresee, such as a port that is no number. It is no `Exception`."""
LEAST_SECRET = 6
"""Characters of the shortest value that is taken for a credential."""

NO_VERSION = (
    "the server does not name the version of an object, by an ETag or, at Google, a generation; without it, one writer "
    "could overwrite another unseen. Use a server that names it, or write the store to a folder and copy the folder"
)
MISSING_ETAG = "ETag Header missing"
"""Words of obstore, for an answer without the version of the object."""

Result = TypeVar("Result")


class Version(NamedTuple):
    """A version of an object: its ETag, and at Google its generation, which conditional writes there need."""

    e_tag: str | None
    version: str | None

    def mode(self, where: object) -> Any:
        """Return obstore's mode of a write that replaces this version only.

        Args:
            where: address of the object.

        Raises:
            AddressError: the server did not name the version, so no write can depend on it.
        """
        if (self.version if str(where).startswith("gs://") else self.e_tag) is None:
            raise AddressError(NO_VERSION, str(where))
        return {name: value for name, value in self._asdict().items() if value is not None}


def version_in(found: Any) -> Version:
    """Return the version in what obstore says of an object."""
    return Version(found["e_tag"], found["version"])


def open_address(address: str) -> Any:
    """Return obstore's store of the objects below an address that `check_address` returned.

    Raises:
        AddressError: obstore refuses it.
        InputError: obstore is not installed, or a variable that it reads has a control character.
    """
    _check_variables(address)
    with explained(address):
        return _memory(address) if address.startswith("memory://") else _open(address)


def repeated(call: Callable[[], Result]) -> Result:
    """Repeat a request whose answer was lost or broke off. obstore repeats only some of them."""
    from obstore.exceptions import GenericError

    for _ in range(N_TRIES - 1):
        try:
            return call()
        except GenericError:
            time.sleep(PAUSE_SECONDS)
    return call()


@contextmanager
def explained(where: object) -> Iterator[None]:
    """Turn errors of obstore into an AddressError of one line, without secrets."""
    try:
        yield
    except (AddressError, FileExistsError, FileNotFoundError, InputError):
        raise
    except BaseException as error:  # obstore has a class for every service's faults, and none above them all
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        said = " ".join(_without_credentials(str(error).split("Debug source")[0]).split()) or type(error).__name__
        said = NO_VERSION if MISSING_ETAG in said else printable(redacted(said))[:600]
        raise AddressError(said, str(where)) from None


def _check_variables(address: str) -> None:
    """Refuse variables that no header of a request can hold, such as a token with the line break of its file."""
    for name, value in os.environ.items():
        of_service = name.startswith(VARIABLES.get(address.partition("://")[0], ())) and not name.endswith(OF_JSON)
        if of_service and CONTROL.search(value) and not value.lstrip().startswith("{"):  # JSON has lines
            raise InputError(
                f"cannot use {address!r}: the variable ${name} holds a line break or another control character; set it "
                "again without, for it may have one at its end"
            )


def _without_credentials(text: str) -> str:
    """Return a text with the names of variables in place of the credentials that they hold."""
    names: dict[str, str] = {}
    for name, value in os.environ.items():
        secret = "?" in value or any(word in name for word in SECRET_WORDS)
        if secret and name.startswith(SERVICES) and len(value) >= LEAST_SECRET:
            names[value] = names[" ".join(value.split())] = f"${name}"
    if not names:
        return text
    longest_first = sorted(names, key=len, reverse=True)  # one may be the beginning of another
    return re.sub("|".join(map(re.escape, longest_first)), lambda found: names[found.group()], text)


def _open(address: str) -> Any:
    try:
        from obstore.store import from_url
    except ImportError:
        raise InputError(
            f"{address!r} is an address, and reading addresses takes obstore; pip install 'tokenprobe[remote]'"
        ) from None
    if address.startswith("file://"):
        return from_url(address)
    endpoints = ENDPOINTS.get(address.partition("://")[0], ())
    plain = any(each.startswith("http://") for each in (address, *(os.environ.get(name, "") for name in endpoints)))
    limits: Any = {"timeout": TIMEOUT, "connect_timeout": CONNECT_TIMEOUT} | ({"allow_http": True} if plain else {})
    return from_url(
        address, client_options=limits, retry_config={"max_retries": N_RETRIES, "retry_timeout": RETRY_TIMEOUT}
    )


@cache
def _memory(address: str) -> Any:
    """Return objects in the memory of this process: the same ones for the same address."""
    from obstore.store import MemoryStore

    return MemoryStore()
