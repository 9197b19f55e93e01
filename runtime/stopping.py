"""Signals that ask the process to stop: SIGTERM, and SIGUSR1, which schedulers send before the time is over.

Work that can finish what it has begun does so inside `finishing`: there the first signal is only noted. A second one,
and a signal anywhere else, stops the process at once.
"""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Terminated(BaseException):
    """A signal asks the process to stop."""


class _State:
    asked = False
    n_finishing = 0


def heed_signals() -> None:
    """Let the signals raise Terminated in the main thread. Call it at the start of a command."""
    _State.asked, _State.n_finishing = False, 0
    for number in SIGNALS:
        signal.signal(number, _stop)


def is_stopping() -> bool:
    """Whether a signal has arrived."""
    return _State.asked


@contextmanager
def finishing() -> Iterator[None]:
    """Note the first signal instead of stopping at once. The work inside asks `is_stopping` now and then."""
    _State.n_finishing += 1
    try:
        yield
    finally:
        _State.n_finishing -= 1


def stop_here() -> None:
    """Raise Terminated if a signal has arrived."""
    if _State.asked:
        raise Terminated


def until_stopped(items: Iterable[T]) -> Iterator[T]:
    """Iterate over items until a signal arrives."""
    for item in items:
        if _State.asked:
            return
        yield item


def _stop(number: int, frame: FrameType | None) -> None:
    at_once = _State.asked or not _State.n_finishing
    _State.asked = True
    if at_once:
        raise Terminated
