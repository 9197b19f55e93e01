"""Addresses of stores, such as "s3://bucket/a.zarr". Credentials are never part of one.

An address reaches messages, journals, run folders and logs. So an address with a password or a signature in it is
refused, by a message without them. Credentials come from the environment.
"""

import re
from pathlib import Path

from ..errors import InputError

SCHEMES = ("s3", "gs", "az", "http", "https", "file", "memory")
READ_ONLY = {
    "http": "a store at an HTTP address can only be read; write to s3://, gs:// or az://",
    "https": "a store at an HTTP address can only be read; write to s3://, gs:// or az://",
    "file": "write to the path itself, without file://",
}
SECRETS = re.compile(r"(?<=://)[^/\s'\"@]*@|[?#][^\s'\"\\)>]*")
"""A user and a password before the host; a query or a fragment, which may hold a signature."""


def is_address(path: str | Path) -> bool:
    """Whether a store's name is an address, such as "s3://bucket/a.zarr", not a path."""
    return "://" in str(path)


def redacted(text: object) -> str:
    """Return a text without the passwords, queries and fragments in its addresses."""
    shown = str(text)
    return SECRETS.sub(_hidden, shown) if "://" in shown else shown


def _hidden(found: re.Match[str]) -> str:
    return "…@" if found[0].endswith("@") else f"{found[0][0]}…"


def check_address(address: str) -> str:
    """Return an address without a slash at its end.

    Raises:
        InputError: it is of no known kind, names nothing, or holds a password or a query.
    """
    scheme, _, rest = address.partition("://")
    if redacted(address) != address:
        raise InputError(
            f"the address {redacted(address)!r} holds a password, a query or a fragment, which would reach logs and "
            "files; give the plain address, and credentials by environment variables: see docs/object-stores.md"
        )
    if scheme not in SCHEMES:
        raise InputError(f"unknown kind of address {address!r}; known: {', '.join(f'{each}://' for each in SCHEMES)}")
    if not rest.strip("/"):
        raise InputError(f"the address {address!r} names no store; give one such as s3://bucket/a.zarr")
    return address.rstrip("/")


def check_writable(address: str) -> str:
    """Return an address at which a store can be written.

    Raises:
        InputError: it is no such address.
    """
    address = check_address(address)
    advice = READ_ONLY.get(address.partition("://")[0])
    if advice:
        raise InputError(f"cannot write to {address!r}: {advice}")
    return address


def store_path(path: str | Path) -> str | Path:
    """Return the name of a store as a path, or as an address that may be shown and kept.

    Raises:
        InputError: an address that is refused.
    """
    return check_address(str(path)) if is_address(path) else Path(path)
