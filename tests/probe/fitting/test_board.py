"""The best cells so far: who is on the board, in which order, and how it looks on 80 columns."""

import random
from io import StringIO
from typing import Any

from rich.console import Console

from tokenprobe.probe.fitting.board import N_SHOWN, Board


def row(cell: str, val: float | None, test: float = 0.5, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "cell": cell,
        "name": "",
        "model": "timm:a",
        "layer": "3",
        "head": "ep",
        "head_config": "queries=8",
    }
    made |= {"shots": "full", "lr": 1.0, "weight_decay": 0.0, "best_epoch": 2, "epochs": 9, "status": "trained"}
    return made | {"val_top1": val, "test_top1": test} | changes


def shown(board: Board, speed: str = "") -> list[str]:
    written = StringIO()
    Console(file=written, width=80).print(board.table(speed))
    return [line.rstrip() for line in written.getvalue().splitlines()]


def test_the_best_are_ranked_by_held_out_images_and_never_by_test_images() -> None:
    board = Board("select")
    rows = [row(f"{n}", val=n / 100, test=1 - n / 100, layer=f"{n}") for n in range(20)]
    random.Random(0).shuffle(rows)
    for each in rows:
        board.update([each])
    assert [each.layer for each in board.best()] == ["19", "18", "17", "16", "15"]
    assert board.line() == "best 19.0 % (layer 19, ep:queries=8, lr 1)"
    other = Board("paper")
    other.update(rows)
    assert [each.layer for each in other.best()] == ["0", "1", "2", "3", "4"]
    assert "on held-out images" in shown(board)[0] and "on the test split" in shown(other)[0]
    board.update([row("ridge", 0.5, selected_on="left-out")])
    assert "on held-out images or on left-out training images" in shown(board)[0]


def test_each_backbone_layer_head_and_number_of_shots_has_its_best_rate() -> None:
    board = Board("select")
    board.update([row("a", 0.5, lr=1.0), row("b", 0.7, lr=3.0), row("c", 0.6, lr=9.0), row("d", 0.4, shots="16")])
    assert [(each.figure, each.rate, each.shots) for each in board.best()] == [
        (0.7, "lr 3", "full"),
        (0.4, "lr 1", "16"),
    ]
    board.update([row("b", 0.7, lr=3.0, status="diverged in epoch 4")])
    assert [each.figure for each in board.best()] == [0.6, 0.4]  # a diverged cell is not selected, so it is not shown
    board.update([row("e", None), row("f", float("nan")), row("g", 0.9, name="mine")])
    assert board.best()[0].source == "mine" and len(board.best()) == 3


def test_the_table_is_bounded_and_fits_on_a_terminal() -> None:
    board = Board("select")
    assert board.table() is None and board.line() == ""
    long: dict[str, Any] = {
        "name": "a very long name of a backbone",
        "layer": "stack:0+1+2+3+4+5+6+7+8+9+10+11",
        "head": "attentive",
    }
    board.update(
        [row(f"{n}", n / 2000, **long | {"shots": f"{n % 7}", "head_config": f"q={n},x=yyyyyyy"}) for n in range(2000)]
    )
    board.update([row("r", 1.0, layer="2", lr=None, weight_decay=1e-5, epochs=None, best_epoch=None, epoch=None)])
    lines = shown(board, "12,300 images/s × 36 cells")
    assert len(lines) == N_SHOWN + 2 and max(map(len, lines)) <= 80
    assert lines[0].split("  ") == ["best so far, on held-out images", "12,300 images/s × 36 cells"]
    assert lines[1].split() == ["backbone", "layer", "head", "shots", "rate", "%", "at", "epoch", "trained"]
    assert lines[2].split() == ["timm:a", "2", "ep:queri…", "full", "penalty", "1e-05", "100.0"]
    assert lines[3].split()[-2:] == ["2", "9/9"] and lines[3].count("…") == 3


def test_unfinished_cells_say_how_far_they_are_and_names_stay_text() -> None:
    board = Board("select")
    board.update([row("a", 0.25, epoch=4, name="[red]x\x1b[2J"), row("b", 0.2, name="b")])
    line = shown(board)[2]
    assert "[red]x" in line and "\x1b" not in line and line.split()[-3:] == ["25.0", "2", "4/9"]


def test_images_with_several_labels_are_ranked_by_precision() -> None:
    board = Board("select")
    board.update([{**row("a", None), "val_map": 0.3}])
    assert board.best()[0].figure == 0.3
