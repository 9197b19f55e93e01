"""Messages: the command shows them on stderr, the library shows none by default. stdout is only for results.

Every module logs to `logging.getLogger(__name__)`, below the logger "tokenprobe". Messages appear only after `shown` or
`show_progress` adds a handler. INFO reports progress, WARNING a deviation from the request, DEBUG details.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.text import Text

from .text import printable

PACKAGE = __name__.partition(".")[0]
LEVELS = {-1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}
"""Lowest level shown, by verbosity: -1 quiet, 0 normal, 1 verbose."""
FOREIGN_PAUSE = "30"
"""Seconds between the lines that bars of other libraries write into a file."""
DETAILED = logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S")


class ConsoleHandler(logging.Handler):
    """Prints messages on stderr, above the progress bar if there is one."""

    def __init__(self, verbosity: int = 0) -> None:
        """Show messages from the level that `LEVELS` gives. If verbose, show time and logger too."""
        super().__init__(LEVELS[verbosity])
        self.console = Console(stderr=True)
        if verbosity > 0:
            self.setFormatter(DETAILED)

    def filter(self, record: logging.LogRecord) -> bool:
        """Skip a record that another stream handler prints, from a library or from the caller's own logging setup."""
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if any(type(each) is logging.StreamHandler and each.level <= record.levelno for each in logger.handlers):
                return False
            logger = logger.parent if logger.propagate else None
        return bool(super().filter(record))

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record. A terminal wraps the text; a file gets unwrapped lines."""
        try:
            style = "yellow" if record.levelno >= logging.WARNING else ""
            lines = self.format(record).rstrip().split("\n")
            text = Text("\n".join(map(printable, lines)), style)
            self.console.print(text, soft_wrap=not self.console.is_terminal)
        except Exception:
            self.handleError(record)


@contextmanager
def shown(verbosity: int = 0) -> Iterator[None]:
    """Show messages and progress while a command runs, including warnings from Python and other libraries.

    Args:
        verbosity: a key of `LEVELS`. Other libraries' INFO messages appear only if verbose.
    """
    root, package, handler = logging.getLogger(), logging.getLogger(PACKAGE), ConsoleHandler(verbosity)
    before = root.level, package.level, warnings.formatwarning
    root.addHandler(handler)
    root.setLevel(logging.INFO if verbosity > 0 else logging.WARNING)
    package.setLevel(LEVELS[verbosity])
    if not handler.console.is_terminal:
        os.environ.setdefault("TQDM_MININTERVAL", FOREIGN_PAUSE)  # of bars that torch and torchvision draw of downloads
    if verbosity <= 0:
        warnings.formatwarning = lambda message, category, *where: f"{category.__name__}: {message}"
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        root.setLevel(before[0])
        package.setLevel(before[1])
        warnings.formatwarning = before[2]


def show_progress(on: bool = True) -> None:
    """See `tokenprobe.show_progress`."""
    package = logging.getLogger(PACKAGE)
    for handler in [each for each in package.handlers if isinstance(each, ConsoleHandler)]:
        package.removeHandler(handler)
    package.setLevel(logging.INFO if on else logging.NOTSET)
    if on:
        package.addHandler(ConsoleHandler())


@contextmanager
def status(what: str) -> Iterator[None]:
    """Show a message while work of unknown length runs."""
    console = bar_console()
    if console is None:
        logging.getLogger(__name__).info(what)
    with nullcontext() if console is None else console.status(what):
        yield


@contextmanager
def bars_of(library: Any) -> Iterator[None]:
    """Let another library draw its progress bars only where ours are drawn.

    Args:
        library: has the functions `are_progress_bars_disabled`, `disable_progress_bars` and `enable_progress_bars`, as
            huggingface_hub and datasets have.
    """
    hide = bar_console() is None and not library.are_progress_bars_disabled()
    if hide:
        library.disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            library.enable_progress_bars()


def bar_console() -> Console | None:
    """Return the console for a progress bar: a terminal that shows messages. None if there is no such terminal."""
    for handler in [*logging.getLogger(PACKAGE).handlers, *logging.getLogger().handlers]:
        if isinstance(handler, ConsoleHandler) and handler.level <= logging.INFO and handler.console.is_interactive:
            return handler.console
    return None
