"""Worker processes: how many, and who handles their signals."""

import os
import signal
import sys
from types import TracebackType


def n_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def leave_signals_to_the_main_process() -> None:
    """Drop the signal handlers that a worker inherits from the main process.

    The worker ignores SIGINT: ctrl-C reaches the whole group, and the main process then ends its workers in order.
    SIGTERM ends the worker at once.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def leave_the_group() -> None:
    """Take a worker out of the main process's group, so that no signal to the group reaches it.

    Only for workers that watch their parent and end when it is gone, as those of a DataLoader do.
    """
    os.setpgrp()
    sys.excepthook = tell_but_of_lost_connections
    leave_signals_to_the_main_process()


def tell_but_of_lost_connections(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
    """Print an error, but not a lost connection.

    A worker loses its connection when the main process stops before it has taken a tensor from the worker's thread.
    """
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, value, trace)
