"""Curves over layers and over training images: what is drawn is what the tables say."""

from collections.abc import Callable, Iterator
from math import log2
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tokenprobe.probe.report.contents import Report
from tokenprobe.probe.report.figures.canvas import styled
from tokenprobe.probe.report.figures.curves import draw_layers, draw_shots
from tokenprobe.probe.report.figures.looks import look_of
from tokenprobe.probe.report.figures.marks import OVER_IMAGES, OVER_SEEDS

MakeReport = Callable[..., Report]
LOST = {"status": "diverged in epoch 2", "selected": False}


@pytest.fixture(autouse=True)
def paper() -> Iterator[None]:
    with styled("paper"):
        yield


def cells(tests: dict[str, float], seeds: int = 1, **changes: Any) -> list[dict[str, Any]]:
    """One row per layer and seed; seeds differ by 0.02."""
    return [
        {"cell": f"none-layer_{layer}-{seed}{sorted(changes.items())}", "layer": layer, "seed": seed,
         "test": test + 0.02 * seed} | changes
        for layer, test in tests.items() for seed in range(seeds)
    ]  # fmt: skip


def lines_of(axes: Any, spec: str) -> list[Any]:
    return [line for line in axes.lines if line.get_color() == look_of(spec).color]


def ticks(axes: Axes) -> list[tuple[float, str]]:
    return list(zip(axes.get_xticks(), [text.get_text() for text in axes.get_xticklabels()], strict=True))


def rings(axes: Any) -> list[tuple[float, float]]:
    found = [
        line for line in axes.lines if line.get_markeredgecolor() == "black" and line.get_markerfacecolor() == "none"
    ]
    return [(float(line.get_xdata()[0]), round(float(line.get_ydata()[0]), 6)) for line in found]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_line_a_head_in_percent_over_layers_in_order(make_report: MakeReport) -> None:
    linear: dict[str, Any] = {"head": "linear", "head_config": "pool=mean"}
    rows = cells({"10": 0.7, "2": 0.2, "9": 0.6}) + cells({"2": 0.1, "9": 0.5, "10": 0.3}, **linear)
    figure: Any = draw_layers(make_report(*rows))
    assert figure is not None
    (axes,) = figure.axes
    for spec, expected in (("ep:queries=8", [20, 60, 70]), ("linear:pool=mean", [10, 50, 30])):
        (line,) = lines_of(axes, spec)
        assert list(line.get_xdata()) == [2, 9, 10] and line.get_ydata() == pytest.approx(expected, abs=1e-9)
        assert (line.get_marker(), line.get_linestyle()) == (look_of(spec).marker, look_of(spec).linestyle)
    assert rings(axes) == [(10, 70), (9, 50)]
    assert ticks(axes) == [(2, "2"), (9, "9"), (10, "10")]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("layer", "test top-1 (%)", "")
    assert legend(figure) == [
        "EP, 8 queries",
        "linear probe, mean token",
        "selected layer",
        OVER_IMAGES,
        "chance, 25 %",
    ]
    (chance,) = [line for line in axes.lines if list(line.get_ydata()) == [25, 25]]
    assert axes.get_ylim()[0] < 25 and chance.get_linestyle() not in ("-", "None")


def test_a_band_is_one_deviation_over_seeds_or_the_interval_over_images(make_report: MakeReport) -> None:
    figure: Any = draw_layers(make_report(*cells({"0": 0.5, "1": 0.6}, seeds=2)))
    assert figure is not None and OVER_SEEDS in legend(figure)
    half = 2 / 2**0.5  # the standard deviation of two numbers that differ by 2
    band = {(x, round(y, 6)) for x, y in figure.axes[0].collections[0].get_paths()[0].vertices}
    assert band >= {(0, round(51 - half, 6)), (0, round(51 + half, 6)), (1, round(61 - half, 6))}


def test_with_one_seed_the_band_is_the_interval(make_report: MakeReport) -> None:
    report = make_report(*cells({"0": 0.5, "1": 0.6}))
    figure: Any = draw_layers(report)
    assert figure is not None
    band = {(x, round(y, 6)) for x, y in figure.axes[0].collections[0].get_paths()[0].vertices}
    row = report.leaders.iloc[0]  # layer 1
    assert row["layer"] == "1" and band >= {(1, round(100 * row["low"], 6)), (1, round(100 * row["high"], 6))}


def test_joined_layers_stand_apart_and_what_diverged_is_a_gap(make_report: MakeReport) -> None:
    rows = cells({"0": 0.1, "1": 0.2, "3": 0.4, "0+1": 0.5, "0+1+2+3": 0.6}, seeds=2)
    figure: Any = draw_layers(make_report(*rows, {"cell": "none-layer_02-x", "layer": "2", **LOST}))
    assert figure is not None
    (axes,) = figure.axes
    line, points = lines_of(axes, "ep:queries=8")
    assert list(line.get_xdata()) == [0, 1, 2, 3]
    assert line.get_ydata() == pytest.approx([11, 21, float("nan"), 41], nan_ok=True)
    assert points.get_linestyle() == "None" and points.get_ydata() == pytest.approx([51, 61])
    assert ticks(axes) == [(0, "0"), (1, "1"), (2, "2"), (3, "3"), (5, "0+1"), (7, "0+1+\n2+3")]
    assert [line.get_xdata()[0] for line in axes.lines if list(line.get_xdata()) == [4, 4]] == [4], (
        "a line between them"
    )


def test_one_layer_is_points_with_intervals(make_report: MakeReport) -> None:
    report = make_report(
        {"layer": "5", "test": 0.6}, {"layer": "5", "head": "aim", "head_config": "heads=4", "test": 0.5}
    )
    figure: Any = draw_layers(report)
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_xlabel() == "test top-1 (%) on layer 5"
    assert [text.get_text() for text in axes.get_yticklabels()] == ["EP, 8 queries", "AIM, 4 heads"]
    assert [line.get_linestyle() for line in axes.lines if len(line.get_xdata()) == 1 and line.get_marker() != "|"] == [
        "None"
    ] * 2
    ends = [segment[:, 0].tolist() for kept in axes.collections for segment in kept.get_segments()]
    assert ends == [pytest.approx([100 * row.low, 100 * row.high]) for row in report.leaders.itertuples()]


def test_panels_share_an_axis_unless_they_are_far_apart(make_report: MakeReport) -> None:
    two = [{"model": f"timm:{m}", "cell": f"{m}-layer_{layer}-1", "layer": layer} for m in "ab" for layer in "01"]
    near = make_report(
        *(row | {"test": test} for row, test in zip(two, (0.5, 0.7, 0.55, 0.8), strict=True)), keeps=False
    )
    figure: Any = draw_layers(near)
    assert figure is not None and [axes.get_title() for axes in figure.axes] == ["timm:a", "timm:b"]
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    far = make_report(
        *(row | {"test": test} for row, test in zip(two, (0.1, 0.12, 0.8, 0.82), strict=True)), keeps=False
    )
    figure = draw_layers(far)
    assert figure is not None and len({axes.get_ylim() for axes in figure.axes}) == 2


def test_shots_ascend_on_a_logarithmic_axis_at_the_selected_layers(make_report: MakeReport) -> None:
    levels = {"full": 0.8, "16": 0.5, "1": 0.1, "10": 0.4, "0.1": 0.6, "0.25": 0.7, "1e-05": 0.2}
    rows = [row for shots, test in levels.items() for row in cells({"0": test}, seeds=2, shots=shots)]
    better_by_test = [row for shots in levels for row in cells({"1": 0.9}, shots=shots, val_top1=0.0)]
    figure: Any = draw_shots(make_report(*rows, *better_by_test))
    assert figure is not None
    counts, fractions = figure.axes
    assert counts.get_xlabel() == "training images per class"
    assert fractions.get_xlabel() == "fraction of the training images"
    assert ticks(counts) == [(0, "1"), (pytest.approx(log2(10)), "10"), (4, "16"), (5, "all")]
    assert ticks(fractions) == [
        (pytest.approx(-5 * log2(10)), "1e-05"), (pytest.approx(-log2(10)), "0.1"), (-2, "0.25"), (0, "all"),
    ]  # fmt: skip
    assert lines_of(counts, "ep:queries=8")[0].get_ydata() == pytest.approx([11, 41, 51, 81])
    assert lines_of(fractions, "ep:queries=8")[0].get_ydata() == pytest.approx([21, 61, 71, 81])


def test_one_number_of_shots_has_no_curve(make_report: MakeReport) -> None:
    assert draw_shots(make_report({"test": 0.5})) is None


def test_a_run_in_which_all_diverged_is_drawn(make_report: MakeReport) -> None:
    rows = [
        {"layer": layer, "shots": shots, "cell": f"none-layer_{layer}-{shots}"} | LOST
        for layer in "01"
        for shots in ("full", "4")
    ]
    report = make_report(*rows)
    for draw in (draw_layers, draw_shots):
        figure = draw(report)
        assert figure is not None
        figure.draw_without_rendering()
