"""Background work: ordered in a lane, side by side across lanes, and loud about failures."""

import signal
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from threading import Event, Thread
from typing import NoReturn

import numpy as np
import pytest

from tokenprobe.store.lanes import Lanes

PATIENCE = 10.0  # seconds until a wait that should be over counts as a hang
N_INTERRUPTED = 200


def test_each_lane_keeps_its_order() -> None:
    done: dict[int, list[int]] = {lane: [] for lane in range(5)}
    lanes = Lanes(3, queued=2)  # lanes 0 and 3, and 1 and 4, share a thread
    for job in range(200):
        lanes.put(job % 5, done[job % 5].append, job)
    lanes.join()
    assert done == {lane: list(range(lane, 200, 5)) for lane in range(5)}


def test_lanes_run_side_by_side() -> None:
    first, second = Event(), Event()
    met: list[bool] = []

    def meet(mine: Event, other: Event) -> None:
        mine.set()
        met.append(other.wait(PATIENCE))

    lanes = Lanes(2, queued=1)
    lanes.put(0, meet, first, second)
    lanes.put(1, meet, second, first)
    lanes.join()
    assert met == [True, True]


def test_put_waits_while_the_queue_is_full() -> None:
    gate, done = Event(), list[int]()
    lanes = Lanes(1, queued=1)
    lanes.put(0, gate.wait, PATIENCE)
    with ThreadPoolExecutor(1) as pool:
        puts = [pool.submit(lanes.put, 0, done.append, job) for job in range(3)]
        assert wait(puts, 0.05).not_done == set(puts[1:])
        gate.set()
    lanes.join()
    assert done == [0, 1, 2]


def test_a_signal_in_the_midst_of_a_put_leaves_no_thread_waiting() -> None:
    """With `queue.Queue` it hung in one round of sixteen, because an exception left its waiters in a bad state."""
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for delay in np.random.default_rng(0).uniform(0.0005, 0.003, N_INTERRUPTED):
            lanes, done = Lanes(1, queued=4), list[int]()
            with suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, delay)
                while True:
                    lanes.put(0, done.append, 1)
            stopping = Thread(target=lanes.stop, daemon=True)
            stopping.start()
            stopping.join(PATIENCE)
            assert not stopping.is_alive()
    finally:
        signal.signal(signal.SIGALRM, before)


def interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def test_a_failure_is_raised_by_the_next_put_and_by_every_join() -> None:
    lanes = Lanes(2, queued=4)
    failing = Event()
    lanes.put(0, fail_and_tell, failing)
    assert failing.wait(PATIENCE)
    with pytest.raises(OSError, match="the disk is gone"):
        put_often(lanes)
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            lanes.join()


def test_nothing_queued_behind_a_failure_is_done() -> None:
    gate, done = Event(), list[int]()
    lanes = Lanes(1, queued=4)
    lanes.put(0, gate.wait, PATIENCE)
    lanes.put(0, fail_and_tell, Event())
    lanes.put(0, done.append, 1)
    gate.set()
    lanes.stop()  # silent
    assert done == []


def test_a_put_waiting_at_the_full_queue_of_a_lane_that_fails_does_not_hang() -> None:
    gate, done = Event(), list[int]()
    lanes = Lanes(1, queued=1)

    def fail_at_the_gate() -> NoReturn:
        gate.wait(PATIENCE)
        raise OSError("the disk is gone")

    def put_five() -> None:
        with suppress(OSError):
            for job in range(5):
                lanes.put(0, done.append, job)

    lanes.put(0, fail_at_the_gate)
    putting = Thread(target=put_five, daemon=True)
    putting.start()
    putting.join(0.05)
    assert putting.is_alive()  # at the full queue
    gate.set()
    putting.join(PATIENCE)
    assert not putting.is_alive()
    with pytest.raises(OSError, match="the disk is gone"):
        lanes.join()
    assert done == []


def test_join_may_be_called_again_and_ends_the_threads() -> None:
    done: list[int] = []
    lanes = Lanes(2, queued=1)
    lanes.put(0, done.append, 1)

    def end() -> None:
        lanes.join()
        lanes.join()
        lanes.stop()

    joining = Thread(target=end, daemon=True)
    joining.start()
    joining.join(PATIENCE)
    assert not joining.is_alive()
    assert done == [1]


def put_often(lanes: Lanes) -> None:
    """A failure is stored a moment after the job reported it; not all puts can fall into that moment."""
    for _ in range(100_000):
        lanes.put(1, int)


def fail_and_tell(failing: Event) -> NoReturn:
    failing.set()
    raise OSError("the disk is gone")


def test_a_flush_waits_for_all_lanes_and_more_work_may_follow() -> None:
    gate, done = Event(), list[int]()
    lanes = Lanes(2, queued=4)
    for turn in range(3):
        for lane in range(2):
            lanes.put(lane, gate.wait, 0.01)
            lanes.put(lane, done.append, turn)
        lanes.flush()
        assert done.count(turn) == 2
    lanes.put(0, int, "no number")
    with pytest.raises(ValueError, match="no number"):
        lanes.flush()
    with pytest.raises(ValueError, match="no number"):
        lanes.flush()
    lanes.stop()
