"""Messages to the user. They go to stderr: stdout is for results alone."""

import sys


def say(line: str) -> None:
    """Print a line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def plural(n: int, noun: str) -> str:
    """Return "image" for one and "images" for any other number."""
    return noun if n == 1 else f"{noun}s"
