"""What is logged: the best of each head by the protocol's figure, once, and a bounded number of curves."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tokenprobe.cli import main
from tokenprobe.errors import InputError
from tokenprobe.probe.logs import LOGS, check_log, open_log
from tokenprobe.probe.logs import log as module
from tokenprobe.probe.logs.contract import Point, Writer
from tokenprobe.probe.logs.log import Log, choices_of, line_of


class Notes(Writer):
    """Keeps what it gets."""

    def __init__(self, steps: Mapping[tuple[str, str], set[int]] | None = None) -> None:
        self.known, self.points, self.spreads = steps or {}, list[tuple[Point, float]](), list[Sequence[float]]()
        self.results = pd.DataFrame()

    def steps(self) -> Mapping[tuple[str, str], set[int]]:
        return self.known

    def add(self, point: Point, value: float) -> None:
        self.points.append((point, value))

    def add_spread(self, point: Point, values: Sequence[float]) -> None:
        self.spreads.append(values)

    def flush(self) -> None: ...

    def replace_results(self, results: pd.DataFrame) -> None:
        self.results = results

    def close(self, *, failed: bool) -> None: ...


def row(lr: float, val: float | None, test: float = 0.5, **changes: Any) -> dict[str, Any]:
    made = {"cell": f"vit-layer_05-{lr}", "name": "", "layer": "5", "head": "ep", "head_config": "queries=8", "seed": 0}
    made |= {"shots": "full", "lr": lr, "weight_decay": 0.0, "epochs": 2, "epoch": 2, "protocol": "select"}
    return made | {"status": "trained", "val_top1": val, "test_top1": test} | changes


def scored(rows: Sequence[Mapping[str, Any]], epoch: int) -> list[dict[str, Any]]:
    return [{**each, "epoch": epoch, "train_loss": each["lr"] / 10} for each in rows]


def test_a_point_is_the_best_by_held_out_images_never_by_test_images() -> None:
    notes, rows = Notes(), [row(1.0, 0.3, 0.9), row(3.0, 0.6, 0.1), row(9.0, 0.5, 0.8)]
    log = Log(notes)
    log.scored([{**each, "epoch": 1} for each in rows], scored(rows, 1))
    line = "vit ep:queries=8, lr 1 to 9"
    assert notes.points == [
        (Point("held-out top-1/layer 05", line, "epoch", 1), 0.6),
        (Point("training loss/layer 05", line, "epoch", 1), 0.3),
    ]
    assert notes.spreads == [[0.3, 0.6, 0.5]]
    log.scored(rows, scored(rows[:1], 2))  # the best of the layer is of all epochs
    assert notes.points[2][1] == 0.3 and notes.points[-1] == (
        Point("best of each layer/held-out top-1", line, "layer", 5), 0.6
    )  # fmt: skip
    paper = Notes()
    of_paper = [{**each, "protocol": "paper"} for each in rows]
    Log(paper).scored(of_paper, scored(of_paper, 1))
    assert paper.points[0] == (Point("test top-1/layer 05", line, "epoch", 1), 0.9)


def test_a_fit_that_continues_writes_each_point_once() -> None:
    known = {("held-out top-1/layer 05", "vit ep:queries=8, lr 1"): {1, 2}}
    notes = Notes(known)
    log = Log(notes)
    for epoch in (2, 3, 3):
        log.scored([{**row(1.0, 0.5), "epoch": 1}], scored([row(1.0, 0.5)], epoch))
    assert [(point.chart, point.step) for point, _ in notes.points] == [
        ("training loss/layer 05", 2), ("held-out top-1/layer 05", 3), ("training loss/layer 05", 3)
    ]  # fmt: skip
    assert known == {("held-out top-1/layer 05", "vit ep:queries=8, lr 1"): {1, 2}}


def test_diverged_cells_and_missing_figures_have_no_point() -> None:
    notes = Notes()
    log, gone = Log(notes), row(1.0, 0.9, status="diverged in epoch 2", head="aim")
    log.scored([gone], [{"cell": gone["cell"], "epoch": 2, "train_loss": float("nan")}])
    log.scored([row(1.0, None)], scored([row(1.0, None)], 1))
    assert notes.points == []


def test_neighbours_of_one_search_have_a_line_each() -> None:
    notes = Notes()
    solved = {"head": "knn", "lr": None, "weight_decay": None, "epochs": None, "epoch": None}
    Log(notes).scored([row(k, k / 10) | solved | {"head_config": f"k={k}"} for k in (1, 3)], [])
    assert [(point.line, value) for point, value in notes.points] == [("vit knn:k=1", 0.1), ("vit knn:k=3", 0.3)]


def test_a_thousand_heads_have_a_bounded_number_of_curves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MOST_CURVES", 3)
    notes = Notes()
    log = Log(notes)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for number in range(8):
                log.scored([row(1.0, 0.5, head_config=f"queries={number}")], [])
    assert len(notes.points) == 3 and len(caplog.messages) == 1
    assert "curves of 3 pairs of a layer and a head, and takes no more" in caplog.messages[0]


def test_a_line_tells_what_its_best_is_the_best_of_and_may_name_a_folder() -> None:
    rows = [row(1.0, 0.5, seed=seed, shots="16", name="a/b\x1b", weight_decay=0.1) for seed in (2, 0)]
    assert line_of(rows) == "a_b\\x1b ep:queries=8, shots 16, lr 1, weight decay 0.1, seed 0 to 2"
    assert line_of([row(1.0, 0.5, head="linear", head_config="", seed=4)]) == "vit linear, lr 1, seed 4"
    assert len(line_of([row(1.0, 0.5, name="é" * 300)]).encode()) <= module.LONGEST_LINE


def test_results_are_selected_cells_means_over_seeds_the_best_first() -> None:
    rows = [row(lr, val, 1 - val, seed=seed, selected=lr < 9, model="m", dataset="d", optimizer="lars")
            for lr, seed, val in ((1.0, 0, 0.2), (1.0, 1, 0.4), (3.0, 0, 0.8), (9.0, 0, 0.9))]  # fmt: skip
    table = pd.DataFrame(rows).assign(val_map=float("nan"), test_map=float("nan"), weight_decay=None)
    found = choices_of(table)
    assert found[["lr", "seeds"]].to_numpy().tolist() == [[3.0, 1], [1.0, 2]]
    assert found["val_top1"].tolist() == pytest.approx([0.8, 0.3]) and found["test_top1"].tolist() == pytest.approx(
        [0.2, 0.7]
    )
    assert found["weight_decay"].tolist() == [None, None] and "val_map" not in found
    notes = Notes()
    Log(notes).finish(table)
    assert notes.results.equals(found)


@pytest.mark.parametrize("name", LOGS)
def test_a_missing_package_is_named_before_the_work(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda asked: None)
    with pytest.raises(InputError, match=rf"--log {name} needs the package {name}: pip install 'tokenprobe\[{name}\]'"):
        check_log(name)
    assert main(["fit", "no.zarr", "-o", str(tmp_path / "run"), "--log", name]) == 2
    assert f"pip install 'tokenprobe[{name}]'" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_without_a_log_nothing_is_written(tmp_path: Path) -> None:
    with open_log(None, tmp_path) as log:
        assert log is None
    assert list(tmp_path.iterdir()) == []
