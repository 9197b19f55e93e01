"""Work in a fork of this process that is killed at a chosen step: a crash that a test can repeat."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Set
from itertools import count
from typing import Any

DISK_STEPS = {"open", "os.mkdir", "os.link", "os.rename", "os.truncate", "os.remove", "os.rmdir", "step"}


def fork_and_kill(work: Callable[[], object], step: int, events: Set[str] = DISK_STEPS) -> bool:
    """Run `work` in a fork that kills itself at its `step`-th step; return whether it got that far.

    Steps are opening, making, renaming and removing files, each batch and block handed over, or other events of
    Python's audit hook. Each write is a step too, and is torn in the middle.
    """
    return _fork(work, step, events)[0]


def count_steps(work: Callable[[], object], events: Set[str] = DISK_STEPS) -> int:
    """Run `work` in a fork and return the number of its steps."""
    return _fork(work, -1, events)[1]


def _fork(work: Callable[[], object], fatal: int, events: Set[str]) -> tuple[bool, int]:
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            steps = _count_steps_and_die_at(fatal, events)
            work()
            os.write(writing, str(next(steps)).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    status = os.waitpid(process, 0)[1]
    n_steps = int(os.read(reading, 20) or 0)
    os.close(reading)
    assert status in (0, signal.SIGKILL), "the fork failed, see above"
    return status == signal.SIGKILL, n_steps


def _count_steps_and_die_at(fatal: int, events: Set[str]) -> Iterator[int]:
    steps, write_really = count(), os.write

    def die(event: str, _: tuple[Any, ...]) -> None:
        if event in events and next(steps) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def torn_write(fd: int, data: Any) -> int:
        if next(steps) == fatal:
            write_really(fd, bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write_really(fd, data)

    sys.addaudithook(die)
    os.write = torn_write
    return steps
