"""The count of cells and the estimate, on a clock that the test turns."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tokenprobe.probe.fitting.board import Board
from tokenprobe.probe.fitting.progress import FitProgress

Turn = Callable[[float], None]


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Turn:
    """Turn the clock on by some seconds."""
    now = [1000.0]

    def on(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return on


@pytest.mark.usefixtures("messages")
def test_cells_count_in_parts_as_a_pass_goes_on(turn: Turn, capsys: pytest.CaptureFixture[str]) -> None:
    with FitProgress(12) as bar, bar.part("layer 3,", 12, 800):
        for epoch in range(8):
            turn(4.0)
            bar.advance(100, f"epoch {epoch + 1}/8")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "fit layer 3, epoch 3/8  4/12 cells  20 s left",
        "fit layer 3, epoch 6/8  9/12 cells  8 s left",
        "fit layer 3, epoch 8/8  12/12 cells  0 s left",
    ]


@pytest.mark.usefixtures("messages")
def test_a_part_without_epochs_is_told_in_percent_and_ends_whatever_it_told(
    turn: Turn, capsys: pytest.CaptureFixture[str]
) -> None:
    with FitProgress(4) as bar:
        with bar.part("layer 0, reading", 0, 1e9):
            turn(20.0)
            bar.advance(25e7)
        with bar.part("layer 0, knn", 3, 10.0):
            turn(20.0)
            bar.advance(5.0)
        with bar.part("layer 0, ridge", 1, 1.0):
            pass
    assert capsys.readouterr().err.splitlines() == [
        "fit layer 0, reading 25%  0/4 cells",
        "fit layer 0, knn 50%  1/4 cells  33 s left",
        "fit layer 0, ridge 100%  4/4 cells  0 s left",
    ]


@pytest.mark.usefixtures("messages")
def test_epochs_of_a_checkpoint_count_but_not_for_the_estimate(turn: Turn, capsys: pytest.CaptureFixture[str]) -> None:
    with FitProgress(100) as bar:
        turn(11.0)
        with bar.part("layer 0,", 100, 100, done=90):
            for epoch in (91, 92):
                turn(11.0)
                bar.advance(1, f"epoch {epoch}/100")
    assert capsys.readouterr().err.splitlines()[1:3] == [
        "fit layer 0, epoch 91/100  91/100 cells  99 s left",
        "fit layer 0, epoch 92/100  92/100 cells  88 s left",
    ]


@pytest.mark.usefixtures("messages")
def test_the_estimate_is_of_the_latest_minutes(turn: Turn, capsys: pytest.CaptureFixture[str]) -> None:
    with FitProgress(200) as bar, bar.part("layer 0,", 200, 200):
        for seconds in [1.0] * 100 + [20.0] * 70:
            turn(seconds)
            bar.advance(1, "now")
        assert capsys.readouterr().err.splitlines()[-1].startswith("fit layer 0, now  168/200 cells  11 min left")


@pytest.mark.usefixtures("messages")
def test_a_pass_is_not_estimated_by_the_one_before(turn: Turn, capsys: pytest.CaptureFixture[str]) -> None:
    with FitProgress(20) as bar:
        for name, n_epochs, seconds in (("layer 0", 10, 0.5), ("layer 1", 1, 20.0)):
            with bar.part(name, 10, 10):
                for _ in range(n_epochs):
                    turn(seconds)
                    bar.advance(1, "now")
                said = capsys.readouterr().err
    assert said.splitlines() == ["fit layer 1 now  11/20 cells  3 min left"]


@pytest.mark.usefixtures("messages")
def test_an_error_in_a_part_does_not_finish_it(turn: Turn, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"), FitProgress(2) as bar, bar.part("layer 0", 2, 2):
        raise ValueError("no")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_bar(turn: Turn, capsys: pytest.CaptureFixture[str]) -> None:
    with FitProgress(4) as bar, bar.part("layer 7,", 2, 20):
        turn(30.0)
        bar.advance(10, "epoch 1/2")
        turn(30.0)
        bar.advance(10, "epoch 2/2")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert re.search(r"fit layer 7, epoch 2/2 \S+ 2/4 cells  0:01:00", shown)
    assert max(map(len, re.split(r"[\r\n]", shown))) <= 80


ROW: dict[str, Any] = {
    "cell": "a", "name": "", "model": "m", "layer": "7", "head": "ep", "head_config": "", "shots": "full", "lr": 3.0,
    "weight_decay": 0.0, "best_epoch": 1, "epochs": 2, "epoch": 1, "val_top1": 0.5, "test_top1": 0.9,
}  # fmt: skip


@pytest.mark.usefixtures("messages")
def test_lines_name_the_throughput_and_the_best_cell(turn: Turn, capsys: pytest.CaptureFixture[str]) -> None:
    with FitProgress(40, Board("select")) as bar, bar.part("layer 7,", 40, 8000, done=4000, noun="image"):
        for _ in range(4):
            turn(5.0)
            bar.advance(1000, "epoch 2/2")
            bar.scored([ROW])
    assert capsys.readouterr().err.splitlines() == [
        "fit layer 7, epoch 2/2  35/40 cells  200 images/s × 40 cells  best 50.0 % (layer 7, ep, lr 3)  5 s left",
        "fit layer 7, epoch 2/2  40/40 cells  200 images/s × 40 cells  best 50.0 % (layer 7, ep, lr 3)  0 s left",
    ]


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_table_of_the_best_while_it_lasts(turn: Turn, capsys: pytest.CaptureFixture[str]) -> None:
    with FitProgress(4, Board("select")) as bar, bar.part("layer 7,", 2, 20, noun="image"):
        for _ in range(3):
            turn(3.0)
            bar.scored([ROW])
            bar.advance(3, "epoch 1/2")
            bar._bar.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "best so far, on held-out images  1 images/s × 2 cells" in shown
    assert re.search(r"7 +ep +lr 3 +50\.0 +1 +1/2", shown)
    assert bar._bar.top is None, "the table goes when the fit ends"


def test_quiet_fits_show_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    with FitProgress(4, Board("select")) as bar, bar.part("layer 7,", 2, 20, noun="image"):
        bar.scored([ROW])
        bar.advance(20)
    assert capsys.readouterr() == ("", "")
