"""The package's own errors. Each is one line: the request, the finding, and what to do.

Each class also inherits from the builtin error that a caller would expect. The command line turns them into exit
status 2, without a traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from errno import EIO


class TokenprobeError(Exception):
    """Base class of all errors raised on purpose."""


class InputError(TokenprobeError, ValueError):
    """A value from the user cannot be used."""


class MissingError(TokenprobeError, FileNotFoundError):
    """A file or folder asked for does not exist."""


class StoreError(TokenprobeError, ValueError):
    """A store is damaged, incomplete, or not the one asked for."""


class RunError(TokenprobeError, ValueError):
    """A run is damaged, was made by another version, or is not the one asked for."""


class LockedError(TokenprobeError, BlockingIOError):
    """Another process is writing to the store."""


class NoSpaceError(TokenprobeError, OSError):
    """The disk is full."""


class HubError(TokenprobeError, OSError):
    """The Hugging Face hub refuses a request, or cannot be reached."""


class AddressError(TokenprobeError, OSError):
    """A store of objects refuses a request, or cannot be reached."""

    def __init__(self, said: str, address: str) -> None:
        super().__init__(EIO, said, address)

    def __str__(self) -> str:
        return (
            f"cannot use {self.filename!r}: {self.strerror}; check the address, the network and the credentials in "
            "the environment"
        )


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Make the error for a name that is not in `known`. It lists the known names, nearest first."""
    names = list(known)
    near = get_close_matches(name, names, n=5, cutoff=0.5)
    listed = near + [other for other in names if other not in near]
    shown = ", ".join(listed[:12]) + (f", … ({len(listed)} in all)" if len(listed) > 12 else "")
    return InputError(f"unknown {kind} {name!r}; known: {shown or 'none'}")
