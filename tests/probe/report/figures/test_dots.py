"""Backbones side by side, and selected figures against peaks."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tokenprobe.probe.report.contents import Report
from tokenprobe.probe.report.figures.canvas import styled
from tokenprobe.probe.report.figures.dots import draw_backbones, draw_peaks
from tokenprobe.probe.report.figures.looks import look_of

MakeReport = Callable[..., Report]
AIM = {"head": "aim", "head_config": "heads=4"}


@pytest.fixture(autouse=True)
def paper() -> Iterator[None]:
    with styled("paper"):
        yield


def test_a_row_a_backbone_and_a_point_a_head(make_report: MakeReport) -> None:
    rows = [
        {"model": f"timm:{model}", "cell": f"{model}-layer_00-{head}", "test": test} | changes
        for model, tests in (("a", (0.5, 0.6)), ("b", (0.7, 0.4)))
        for head, (test, changes) in enumerate(zip(tests, ({}, AIM), strict=True))
    ]
    report = make_report(*rows)
    figure: Any = draw_backbones(report)
    assert figure is not None
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["timm:a", "timm:b"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first backbone is on top"
    for spec, expected in (("ep:queries=8", [50, 70]), ("aim:heads=4", [60, 40])):
        look = look_of(spec)
        (points,) = [x for x in axes.lines if x.get_color() == look.color and x.get_marker() == look.marker]
        assert points.get_xdata() == pytest.approx(expected)
        assert [round(float(y)) for y in points.get_ydata()] == [0, 1]
    bars = sorted(segment[:, 0].tolist() for kept in axes.collections for segment in kept.get_segments())
    assert [low for low, _ in bars] == pytest.approx(sorted(100 * report.leaders["low"]))
    assert [high for _, high in bars] == pytest.approx(sorted(100 * report.leaders["high"]))
    assert axes.get_xlabel() == "test top-1 (%)"


def test_one_backbone_has_nothing_beside_it(make_report: MakeReport) -> None:
    assert draw_backbones(make_report({"test": 0.5}, {"test": 0.6} | AIM)) is None


def test_peaks_are_of_the_epochs_and_of_the_whole_grid(make_report: MakeReport) -> None:
    figure: Any = draw_peaks(
        make_report(
            {"test": 0.5, "peak_test_top1": 0.55},
            {"layer": "1", "test": 0.45, "val_top1": 0.1, "peak_test_top1": 0.65},
            {"lr": 9.0, "selected": False, "test": 0.2, "peak_test_top1": 0.6},
        )
    )
    assert figure is not None
    (axes,) = figure.axes
    values = {line.get_marker(): line.get_xdata().tolist() for line in axes.lines if len(line.get_xdata()) == 1}
    assert values == {"o": pytest.approx([50]), "|": pytest.approx([65])}
    opened = [line for line in axes.lines if line.get_markerfacecolor() == "w"]
    assert [line.get_xdata().tolist() for line in opened] == [pytest.approx([55])]


def test_figures_that_are_peaks_have_no_optimism_to_show(make_report: MakeReport) -> None:
    assert draw_peaks(make_report({"test": 0.5, "protocol": "paper"})) is None
