"""Messages to the user. They go to stderr: stdout is for results alone."""

import sys


def say(line: str) -> None:
    """Print a line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def plural(n: int, one: str, many: str | None = None) -> str:
    """Return the noun for a number: `one` for 1, for any other `many`, or `one` with an "s"."""
    return one if n == 1 else many or f"{one}s"


def set_level(*, verbose: bool, quiet: bool) -> None:
    """Choose how much is said."""
