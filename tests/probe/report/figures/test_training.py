"""Rates and epochs: the curves are the means of the results and of the history."""

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest

from tokenprobe.probe.report.contents import Report
from tokenprobe.probe.report.figures.canvas import styled
from tokenprobe.probe.report.figures.looks import look_of
from tokenprobe.probe.report.figures.training import draw_rates, draw_training

MakeReport = Callable[..., Report]
COLOUR = look_of("ep:queries=8").color


@pytest.fixture(autouse=True)
def paper() -> Iterator[None]:
    with styled("paper"):
        yield


def test_a_head_over_its_rates(make_report: MakeReport) -> None:
    rows = [
        {"lr": lr, "seed": seed, "test": test + 0.1 * seed, "selected": lr == 1.0}
        for lr, test in ((10.0, 0.3), (0.1, 0.2), (1.0, 0.5))
        for seed in (0, 1)
    ]
    lost = [{"lr": 100.0, "seed": seed, "selected": False, "status": "diverged in epoch 1"} for seed in (0, 1)]
    figure: Any = draw_rates(make_report(*rows, *lost))
    assert figure is not None
    (axes,) = figure.axes
    line = next(line for line in axes.lines if line.get_color() == COLOUR and len(line.get_xdata()) > 1)
    assert list(line.get_xdata()) == [0, 1, 2, 3]
    assert line.get_ydata() == pytest.approx([25, 55, 35, float("nan")], nan_ok=True)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "1", "10", "100"]
    crosses = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "x"]
    assert crosses == [3]
    rings = [(x.get_xdata()[0], x.get_ydata()[0]) for x in axes.lines if x.get_markeredgecolor() == "black"]
    assert rings == [(1, pytest.approx(55))]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "EP, 8 queries", "selected rate", "± 1 std over seeds", "diverged"
    ]  # fmt: skip


def test_the_curve_is_of_the_selected_optimizer(make_report: MakeReport) -> None:
    rows = [{"lr": lr, "test": lr / 10, "val_top1": lr, "selected": lr == 1.0} for lr in (0.1, 1.0)]
    other = [{"lr": lr, "test": 0.9, "selected": False, "optimizer": "adamw"} for lr in (0.1, 10.0)]
    figure: Any = draw_rates(make_report(*rows, *other))
    assert figure is not None
    (axes,) = figure.axes
    line = next(line for line in axes.lines if line.get_color() == COLOUR and len(line.get_xdata()) > 1)
    assert line.get_ydata() == pytest.approx([1, 10])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.1", "1"]


def test_one_rate_is_no_curve(make_report: MakeReport) -> None:
    assert draw_rates(make_report({"test": 0.5})) is None


def history(n_seeds: int) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"cell": f"none-layer_00-{seed}", "epoch": epoch, "train_loss": 2.0 / epoch + seed, "val_top1": 0.1 * epoch,
             "test_top1": 0.0, "val_map": float("nan"), "test_map": float("nan")}
            for seed in range(n_seeds) for epoch in (1, 2, 3)
        ]
    )  # fmt: skip


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_losses_and_the_figure_that_selects_over_epochs(make_report: MakeReport, n_seeds: int) -> None:
    rows = [{"seed": seed, "test": 0.5, "best_epoch": 2} for seed in range(n_seeds)]
    figure: Any = draw_training(make_report(*rows, history=history(n_seeds)))
    assert figure is not None
    loss, score = figure.axes
    assert (loss.get_ylabel(), score.get_ylabel(), score.get_xlabel()) == (
        "training loss", "held-out top-1 (%)", "epoch"
    )  # fmt: skip
    (losses,) = [line for line in loss.lines if line.get_color() == COLOUR]
    assert list(losses.get_xdata()) == [1, 2, 3]
    assert losses.get_ydata() == pytest.approx([x + (n_seeds - 1) / 2 for x in (2, 1, 2 / 3)])
    (scores,) = [line for line in score.lines if line.get_color() == COLOUR]
    assert scores.get_ydata() == pytest.approx([10, 20, 30])
    rings = [(x.get_xdata()[0], x.get_ydata()[0]) for x in score.lines if x.get_markeredgecolor() == "black"]
    assert rings == ([(2, pytest.approx(20))] if n_seeds == 1 else []), "seeds have epochs of their own"


def test_without_a_history_there_are_no_curves(make_report: MakeReport) -> None:
    assert draw_training(make_report({"test": 0.5})) is None
