"""Short numbers, chance, and ranges that are not known."""

from collections.abc import Callable, Iterator

import pandas as pd
import pytest
from matplotlib.figure import Figure

from tokenprobe.probe.report.contents import Report
from tokenprobe.probe.report.figures.canvas import styled
from tokenprobe.probe.report.figures.marks import draw_chance, plain_log, short_number, with_range


@pytest.fixture(autouse=True)
def paper() -> Iterator[None]:
    with styled("paper"):
        yield


def test_short_numbers() -> None:
    numbers = [0.5, 20, 1000, 2500, 5e6, 1e9, 2e12]
    assert [short_number(number) for number in numbers] == ["0.5", "20", "1k", "2.5k", "5M", "1G", "2T"]


def test_a_logarithmic_axis_has_short_numbers() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([900, 2_000_000], [0, 1])
    axes.set_xscale("log")
    plain_log(axes.xaxis)
    figure.draw_without_rendering()
    assert {"1k", "10k", "100k", "1M"} <= {text.get_text() for text in axes.get_xticklabels()}
    assert not [text for text in axes.get_xticklabels(minor=True) if text.get_text()]


@pytest.mark.parametrize(("chance", "drawn"), [(0.6, 1), (0.1, 0), (float("nan"), 0)])
def test_chance_is_drawn_where_it_is_near(chance: float, drawn: int) -> None:
    axes = Figure().add_subplot()
    axes.set_ylim(65, 85)
    entries = draw_chance(axes, chance)
    assert len(axes.lines) == drawn
    assert list(entries) == {0.6: ["chance, 60 %"], 0.1: ["chance, 10 % (below)"]}.get(chance, [])
    assert (axes.get_ylim()[0] < 60) == (drawn == 1)


def test_a_range_that_is_not_known_is_none(make_report: Callable[..., Report]) -> None:
    report = make_report({"test": 0.5}, keeps=False)
    rows, words = with_range(report, report.summary)
    assert words is None and rows[["y", "low", "high"]].to_numpy().tolist() == [[50, 50, 50]]
    assert isinstance(rows, pd.DataFrame)
