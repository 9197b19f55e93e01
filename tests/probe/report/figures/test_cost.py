"""Figures against cost, and the Pareto front against its definition."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tokenprobe.probe.report.contents import Report
from tokenprobe.probe.report.figures.canvas import styled
from tokenprobe.probe.report.figures.cost import draw_cost, pareto_front
from tokenprobe.probe.report.figures.looks import look_of

MakeReport = Callable[..., Report]
ROWS = [
    {"head": "linear", "head_config": "pool=mean", "n_params": 1000, "flops_forward": 2000, "test": 0.5},
    {"head": "ep", "head_config": "queries=8", "n_params": 20_000, "flops_forward": 300_000, "test": 0.7},
    {"head": "aim", "head_config": "heads=4", "n_params": 50_000, "flops_forward": 100_000, "test": 0.6},
    {"head": "knn", "head_config": "k=5", "n_params": 0, "flops_forward": pd.NA, "test": 0.65},
]


@pytest.fixture(autouse=True)
def paper() -> Iterator[None]:
    with styled("paper"):
        yield


def test_points_are_the_costs_and_figures_of_the_table(make_report: MakeReport) -> None:
    report = make_report(*ROWS)
    figure: Any = draw_cost(report)
    assert figure is not None
    params, flops = figure.axes
    assert [axes.get_xlabel() for axes in (params, flops)] == ["parameters", "FLOP per image"]
    for axes, column in ((params, "n_params"), (flops, "flops_forward")):
        for row in report.leaders[report.leaders["n_params"] > 0].itertuples():
            points = [
                line
                for line in axes.lines
                if line.get_color() == look_of(row.spec).color and line.get_marker() == look_of(row.spec).marker
            ]
            assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in points] == [
                (getattr(row, column), pytest.approx(100 * row.test))
            ]
    assert not [line for line in params.lines if line.get_color() == look_of("knn:k=5").color]
    front = [line for line in params.lines if line.get_drawstyle() == "steps-post"]
    assert [line.get_xdata().tolist() for line in front] == [[1000, 20_000]]
    (front,) = [line for line in flops.lines if line.get_drawstyle() == "steps-post"]
    assert front.get_xdata().tolist() == [2000, 100_000, 300_000]
    assert front.get_ydata() == pytest.approx([50, 60, 70])


def test_the_front_is_what_no_other_head_beats() -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"x": rng.integers(1, 30, 40).astype(float), "y": rng.integers(1, 30, 40).astype(float)})
    found = {(row.x, row.y) for row in pareto_front(rows).itertuples()}
    points = set(rows.itertuples(index=False, name=None))
    expected = {(x, y) for x, y in points if not any((a <= x and b >= y) and (a, b) != (x, y) for a, b in points)}
    assert found == expected


def test_one_head_has_no_front(make_report: MakeReport) -> None:
    assert draw_cost(make_report(ROWS[0], ROWS[3])) is None
