"""The count, its lines and its bar, on a clock that the test sets."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from threading import Thread

import pytest
from rich.progress import MofNCompleteColumn, TextColumn

from tokenprobe.runtime.console import shown
from tokenprobe.runtime.progress import Progress

Turn = Callable[[float], None]


class Sheep(Progress):
    """Counts sheep."""

    def __init__(self, total: int, *, last_line: bool = True) -> None:
        super().__init__("count", total, MofNCompleteColumn(), TextColumn("{task.fields[note]}"), last_line=last_line)

    def advance(self, n: int = 1) -> None:
        self._count(n)

    def _line(self) -> str:
        return f"{self._what} {self._done}/{self._total} sheep"

    def _note(self) -> str:
        return "asleep" if self._done == self._total else "awake"


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Turn:
    """Turn the clock on by some seconds."""
    now = [1000.0]

    def on(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return on


@pytest.mark.usefixtures("messages")
def test_a_line_comes_every_ten_seconds_and_at_the_end(turn: Turn, capsys: pytest.CaptureFixture[str]) -> None:
    with Sheep(10) as sheep:
        for _ in range(10):
            turn(3.0)
            sheep.advance()
        assert sheep.seconds == 30.0
    assert capsys.readouterr() == (
        "",
        "count 4/10 sheep  18 s left\ncount 8/10 sheep  6 s left\ncount 10/10 sheep  0 s left\n",
    )


@pytest.mark.usefixtures("messages")
def test_a_long_run_says_less_and_less_often_but_every_five_minutes(
    turn: Turn, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line per second would be 200,000 lines; one every ten seconds, 20,000."""
    told, day = [], 200_000
    with Sheep(day) as sheep:
        for second in range(day):
            turn(1.0)
            sheep.advance()
            if capsys.readouterr().err:
                told.append(second)
    pauses = [later - earlier for earlier, later in pairwise(told)]
    assert pauses[:15] == [11] * 15, "ten seconds are over"
    assert pauses[-2] == max(pauses) == 301 and pauses[:-1] == sorted(pauses[:-1]), "the last line comes at the end"
    assert len(told) < 800


def test_nothing_is_shown_unless_messages_are(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(-1), Sheep(2) as sheep:
        sheep.advance(2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("messages")
def test_ten_seconds_are_not_more_than_ten(turn: Turn, capsys: pytest.CaptureFixture[str]) -> None:
    with Sheep(4) as sheep:
        turn(10.0)
        sheep.advance()
        assert not capsys.readouterr().err
        turn(0.1)
        sheep.advance()
    assert capsys.readouterr().err == "count 2/4 sheep  10 s left\n"


@pytest.mark.usefixtures("messages")
def test_without_a_last_line_short_work_says_nothing(turn: Turn, capsys: pytest.CaptureFixture[str]) -> None:
    with Sheep(2, last_line=False) as sheep:
        turn(9.0)
        sheep.advance(2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("messages")
def test_nothing_done_has_no_time_left(turn: Turn, capsys: pytest.CaptureFixture[str]) -> None:
    with Sheep(2) as sheep:
        turn(11.0)
        sheep.advance(0)
    assert capsys.readouterr().err == "count 0/2 sheep\n"


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_bar_and_no_lines(turn: Turn, capsys: pytest.CaptureFixture[str]) -> None:
    with Sheep(2) as sheep:
        turn(60.0)
        sheep.advance(2)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert re.search(r"count ━+ 2/2 asleep", shown)
    assert "sheep" not in shown


class Slow(int):
    """A number that is slow to add."""

    def __radd__(self, other: int) -> int:
        time.sleep(0.01)
        return int(self) + other


@pytest.mark.usefixtures("messages")
def test_threads_count_together(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a lock, threads that read the same count would write the same sum."""
    with Sheep(12) as sheep:

        def advance() -> None:
            for _ in range(3):
                sheep.advance(Slow(1))

        threads = [Thread(target=advance) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert capsys.readouterr().err == "count 12/12 sheep  0 s left\n"


def test_what_the_store_may_import_loads_no_torch() -> None:
    code = (
        "import sys\nfrom tokenprobe.runtime import console, progress, workers\n"
        "assert not {'torch', 'timm', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
