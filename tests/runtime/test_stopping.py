"""A signal is noted where work finishes what it has begun, and stops the process anywhere else."""

import signal
from collections.abc import Iterator

import pytest

from tokenprobe.runtime.stopping import (
    SIGNALS,
    Terminated,
    finishing,
    heed_signals,
    is_stopping,
    stop_here,
    until_stopped,
)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heed_signals()
    yield
    heed_signals()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_at_once_outside_and_is_noted_inside(number: signal.Signals) -> None:
    stop_here()
    with finishing():
        signal.raise_signal(number)
        assert is_stopping()
        with pytest.raises(Terminated):
            signal.raise_signal(number)  # the second one
    with pytest.raises(Terminated):
        stop_here()
    heed_signals()
    assert not is_stopping()
    with pytest.raises(Terminated):
        signal.raise_signal(number)
    assert is_stopping()


def test_sections_may_be_nested() -> None:
    with finishing():
        with finishing():
            pass
        signal.raise_signal(signal.SIGTERM)
    assert is_stopping()


def test_items_end_with_a_signal() -> None:
    taken = []
    with finishing():
        for item in until_stopped(range(5)):
            taken.append(item)
            if item == 2:
                signal.raise_signal(signal.SIGUSR1)
    assert taken == [0, 1, 2]
