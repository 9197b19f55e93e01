"""The count and the estimate, on a clock that the test turns."""

import re
from collections.abc import Callable

import pytest

from tokenprobe.probe.fitting import progress
from tokenprobe.probe.fitting.progress import EpochProgress

Turn = Callable[[float], None]


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Turn:
    """Turn the clock on by some seconds."""
    now = [1000.0]

    def on(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return on


def test_lines_now_and_then_and_at_the_end(turn: Turn, capsys: pytest.CaptureFixture[str]) -> None:
    with EpochProgress(8) as bar:
        for _ in range(8):
            turn(4.0)
            bar.advance("layer 3")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "fit layer 3  3/8 epochs  20 s left",
        "fit layer 3  6/8 epochs  8 s left",
        "fit layer 3  8/8 epochs  0 s left",
    ]


def test_epochs_of_a_checkpoint_count_but_not_for_the_estimate(turn: Turn, capsys: pytest.CaptureFixture[str]) -> None:
    with EpochProgress(100) as bar:
        turn(11.0)
        bar.advance("layer 0", 90)
        for _ in range(2):
            turn(11.0)
            bar.advance("layer 0")
    assert capsys.readouterr().err.splitlines() == [
        "fit layer 0  90/100 epochs",
        "fit layer 0  91/100 epochs  99 s left",
        "fit layer 0  92/100 epochs  88 s left",
    ]


def test_the_estimate_is_of_the_latest_epochs(turn: Turn, capsys: pytest.CaptureFixture[str]) -> None:
    with EpochProgress(200) as bar:
        for seconds in [1.0] * 100 + [20.0] * 60:
            turn(seconds)
            bar.advance("a pass")
    assert capsys.readouterr().err.splitlines()[-1] == "fit a pass  160/200 epochs  800 s left"


def test_a_pass_is_not_estimated_by_the_one_before(turn: Turn, capsys: pytest.CaptureFixture[str]) -> None:
    with EpochProgress(20) as bar:
        for name, n_epochs, seconds in (("layer 0", 10, 1.0), ("layer 1", 1, 20.0)):
            bar.advance(name, 0)  # no checkpoint
            for _ in range(n_epochs):
                turn(seconds)
                bar.advance(name)
    assert capsys.readouterr().err.splitlines() == ["fit layer 1  11/20 epochs  180 s left"]


def test_a_terminal_gets_a_bar(turn: Turn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with EpochProgress(4) as bar:
        turn(30.0)
        bar.advance("layer 0")
        turn(30.0)
        bar.advance("layer 7")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert re.search(r"fit layer 7 \S+ 2/4 epochs  0:01:00", shown)
