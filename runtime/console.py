"""Messages to the user. They go to stderr: stdout is for results alone."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_verbosity = 0


def say(line: str) -> None:
    """Print a line on stderr, at once."""
    if _verbosity >= 0:
        print(line, file=sys.stderr, flush=True)


def plural(n: int, one: str, many: str | None = None) -> str:
    """Return the noun for a number: `one` for 1, for any other `many`, or `one` with an "s"."""
    return one if n == 1 else many or f"{one}s"


@contextmanager
def shown(verbosity: int = 0) -> Iterator[None]:
    """Show messages while a command runs: -1 for a quiet one, 0 as usual, 1 for a verbose one."""
    global _verbosity
    before, _verbosity = _verbosity, verbosity
    try:
        yield
    finally:
        _verbosity = before
