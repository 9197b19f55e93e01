"""Worker processes: their number, and their signals."""

import os
import signal
import sys
from types import TracebackType

NEIGHBOURS = "LOCAL_WORLD_SIZE"
"""Variable that torchrun sets in its processes: their number on this machine."""


def n_cores() -> int:
    """Return the number of cores for this process: an equal share of those that it and its neighbours may use."""
    return max(1, len(os.sched_getaffinity(0)) // n_neighbours())


def n_neighbours() -> int:
    """Return the number of processes that an engine runs on this machine, this one included."""
    return max(1, int(os.environ.get(NEIGHBOURS, "1")))


def leave_signals_to_the_main_process() -> None:
    """Drop the signal handlers that a worker inherits from the main process.

    The worker ignores SIGINT: ctrl-C reaches the whole group, and the main process then ends its workers in order.
    It ignores SIGUSR1 too, which schedulers send to all processes before the time is over. SIGTERM ends the worker at
    once.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def leave_the_group() -> None:
    """Take a worker out of the main process's group, so that signals to the group do not reach it.

    Only for workers that watch their parent and end when it is gone, like a DataLoader's.
    """
    os.setpgrp()
    sys.excepthook = tell_but_of_lost_connections
    leave_signals_to_the_main_process()


def tell_but_of_lost_connections(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
    """Print an error, unless it is a lost connection.

    A worker loses its connection if the main process stops before it has taken a tensor from the worker's thread.
    """
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, value, trace)
