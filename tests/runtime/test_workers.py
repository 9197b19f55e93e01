"""Worker processes: their number, and the effects of signals and lost connections."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection

import pytest

from tokenprobe.runtime.workers import (
    leave_signals_to_the_main_process,
    leave_the_group,
    n_cores,
    tell_but_of_lost_connections,
)

FORK = get_context("fork")
MINE = (leave_signals_to_the_main_process, leave_the_group)


def test_cores_are_those_that_this_process_may_use() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from tokenprobe.runtime.workers import n_cores; print(n_cores())"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "1\n"
    assert n_cores() == len(os.sched_getaffinity(0))


def work(prepare: Callable[[], None], started: Connection) -> None:
    prepare()
    started.send(os.getpgrp())
    time.sleep(30)


@pytest.mark.parametrize("prepare", MINE)
def test_a_worker_passes_over_ctrl_c_and_ends_at_sigterm_without_the_main_processs_handlers(
    prepare: Callable[[], None],
) -> None:
    def handler(*_: object) -> None:
        os._exit(99)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        heard, started = FORK.Pipe(duplex=False)
        worker = FORK.Process(target=work, args=(prepare, started))
        worker.start()
        group = heard.recv()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGINT)
        worker.join(0.2)
        assert worker.is_alive()
        os.kill(worker.pid, signal.SIGTERM)
        worker.join(10)
    finally:
        for number, former in before.items():
            signal.signal(number, former)
    assert worker.exitcode == -signal.SIGTERM
    assert (group != os.getpgrp()) == (prepare is leave_the_group)


def test_a_worker_tells_of_every_error_but_a_main_process_that_is_gone(capfd: pytest.CaptureFixture[str]) -> None:
    for error in (ConnectionResetError(104, "reset by peer"), EOFError()):
        tell_but_of_lost_connections(type(error), error, None)
    assert not capfd.readouterr().err
    tell_but_of_lost_connections(ValueError, ValueError("a wrong value"), None)
    assert capfd.readouterr().err == "ValueError: a wrong value\n"


def test_outside_the_group_a_lost_connection_is_not_told() -> None:
    code = "from tokenprobe.runtime.workers import leave_the_group\nleave_the_group()\nraise {}"
    for error, told in (("EOFError('gone')", False), ("ValueError('wrong')", True)):
        ended = subprocess.run([sys.executable, "-c", code.format(error)], capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        assert ("ValueError: wrong" in ended.stderr) == told == bool(ended.stderr)
