"""Counted bytes: the plain lines, on a clock that the test sets, and the bar."""

import re

import pytest

from tokenprobe.workflows.progress import ByteProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the clock shows; the test sets them."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.mark.usefixtures("messages")
def test_progress_is_told_in_lines_where_there_is_no_terminal(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with ByteProgress("export", 8_000_000_000) as counted:
        clock[0] += 20
        counted.advance(2_000_000_000)
        clock[0] += 5
        counted.advance(2_000_000_000)
        clock[0] += 15
        counted.advance(3_000_000_000)
        counted.advance(1_000_000_000)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "export 2.00 GB of 8.00 GB  100 MB/s  60 s left",
        "export 7.00 GB of 8.00 GB  175 MB/s  6 s left",
    ]


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_bar_with_size_and_speed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ByteProgress("export", 8_000_000) as counted:
        counted.advance(2_000_000)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert re.search(r"export ━\S+ 2\.0/8\.0 MB", shown)
