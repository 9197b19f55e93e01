"""Every error the package raises on purpose: one line that says what was asked, what was found, what to do.

Each class also inherits the builtin that a caller would think of catching. The command line turns any
of them into exit status 2 without a traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class TokenprobeError(Exception):
    """Base class of all errors raised on purpose."""


class InputError(TokenprobeError, ValueError):
    """A value given by the user cannot be used."""


class MissingError(TokenprobeError, FileNotFoundError):
    """A file or folder that was asked for is not there."""


class StoreError(TokenprobeError, ValueError):
    """A store is damaged, incomplete, or not the one that was asked for."""


class RunError(TokenprobeError, ValueError):
    """A run is damaged, was made by another version, or is not the one that was asked for."""


class LockedError(TokenprobeError, BlockingIOError):
    """Another process is writing to the store."""


class NoSpaceError(TokenprobeError, OSError):
    """The disk has no room for what would be written."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Make the error for a name that is not among `known`, listing the known ones, nearest first."""
    names = list(known)
    near = get_close_matches(name, names, n=5, cutoff=0.5)
    listed = near + [other for other in names if other not in near]
    shown = ", ".join(listed[:12]) + (f", … ({len(listed)} in all)" if len(listed) > 12 else "")
    return InputError(f"unknown {kind} {name!r}; known: {shown or 'none'}")
