"""The curves: what is drawn, and that the same results give the same files."""

import re
from collections.abc import Callable
from itertools import product
from math import log2
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tokenprobe.probe.report import figures
from tokenprobe.probe.report.figures import draw_layer_curve, draw_shots_curve
from tokenprobe.probe.report.summary import summarise, tidy

MakeResults = Callable[..., pd.DataFrame]
SUMMARY = pd.DataFrame(
    {
        "source": "timm:none on made",
        "head": ["ep:queries=8"] * 3 + ["linear:pool=mean"] * 3,
        "shots": "full",
        "layer": ["10", "2", "9", "2", "9", "10"],
        "figure": "top1",
        "test": [0.7, 0.2, 0.6, 0.1, 0.3, 0.5],
        "test_std": [0.01, 0.02, 0.03, np.nan, np.nan, np.nan],
    }
)
LOST = {"status": "diverged in epoch 2", "selected": False}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn."""
    kept: list[Figure] = []

    class KeptFigure(Figure):
        def __init__(self, **options: object) -> None:
            super().__init__(**options)
            kept.append(self)

    monkeypatch.setattr(figures, "Figure", KeptFigure)
    return kept


def ticks(axes: object) -> list[tuple[float, str]]:
    return list(zip(axes.get_xticks(), [text.get_text() for text in axes.get_xticklabels()], strict=True))


def test_a_name_is_no_formula(tmp_path: Path, drawn: list[Figure]) -> None:
    two = pd.concat([SUMMARY, SUMMARY.assign(source=r"timm:a on folder:$a_{$")])
    draw_layer_curve(two, tmp_path)
    assert drawn[0].axes[1].get_title() == "timm:a\non folder:$a_{$"


def test_a_picture_and_a_vector_file_are_written(tmp_path: Path) -> None:
    files = draw_layer_curve(SUMMARY, tmp_path / "figures")
    assert files == [tmp_path / "figures/layer_curve.png", tmp_path / "figures/layer_curve.svg"]
    with Image.open(files[0]) as image:
        image.load()
        assert image.size == (1280, 800)
        assert len(np.unique(np.asarray(image.convert("L")))) > 10
    assert "<svg" in files[1].read_text()


@pytest.mark.parametrize("draw", [draw_layer_curve, draw_shots_curve])
def test_the_same_results_give_the_same_bytes(
    tmp_path: Path, make_results: MakeResults, draw: Callable[..., list[Path]]
) -> None:
    models, shots = ["timm:a", "timm:b"], ["full", "4", "0.5"]
    rows = [{"model": model, "shots": name, "test": 0.5} for model, name in product(models, shots)]
    summary = summarise(tidy(make_results(*rows)))
    one, two = draw(summary, tmp_path / "one"), draw(summary.copy(), tmp_path / "two")
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes()
    other = draw(summary.assign(test=[0.4, *summary["test"][1:]]), tmp_path / "other")
    assert other[0].read_bytes() != one[0].read_bytes()
    assert not re.search(r"<dc:date>", one[1].read_text())


def test_a_line_a_head_in_percent_over_layers_in_order(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_layer_curve(SUMMARY, tmp_path)
    axes = drawn[0].axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines) == {"ep:queries=8", "linear:pool=mean"}
    assert [list(line.get_xdata()) for line in lines.values()] == [[2, 9, 10]] * 2
    assert lines["ep:queries=8"].get_ydata() == pytest.approx([20, 60, 70], abs=1e-12)
    assert lines["linear:pool=mean"].get_ydata() == pytest.approx([10, 30, 50], abs=1e-12)
    assert len({line.get_color() for line in lines.values()}) == 2
    assert len({line.get_marker() for line in lines.values()}) == 2
    band = axes.collections[0].get_paths()[0].vertices
    assert {(x, round(y, 6)) for x, y in band} >= {(2, 18), (2, 22), (9, 57), (9, 63), (10, 69), (10, 71)}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(lines)
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("layer", "test top-1 (%)", "")


def test_twenty_heads_look_different_and_are_named_beside_the_panel(tmp_path: Path, drawn: list[Figure]) -> None:
    many = pd.concat([SUMMARY[:3].assign(head=f"ep:queries={number}") for number in range(20)], ignore_index=True)
    draw_layer_curve(many, tmp_path)
    axes = drawn[0].axes[0]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 20
    assert axes.get_legend() is None
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [f"ep:queries={number}" for number in range(20)]
    assert legend.get_window_extent().x0 >= axes.get_window_extent().x1


def test_joined_layers_stand_apart_with_bars_and_what_diverged_is_a_gap(
    tmp_path: Path, drawn: list[Figure], make_results: MakeResults
) -> None:
    tests = {"0": 0.1, "1": 0.2, "3": 0.4, "0+1": 0.5, "0+1+2+3": 0.6}
    rows = [{"layer": layer, "seed": s, "test": test + 0.02 * s} for layer, test in tests.items() for s in (0, 1)]
    draw_layer_curve(summarise(tidy(make_results(*rows, {"layer": "2", **LOST}))), tmp_path)
    axes = drawn[0].axes[0]
    line, points = axes.lines
    assert line.get_xdata().tolist() == [0, 1, 2, 3]
    assert line.get_ydata() == pytest.approx([11, 21, np.nan, 41], nan_ok=True)
    assert (points.get_linestyle(), points.get_color()) == ("None", line.get_color())
    assert points.get_ydata() == pytest.approx([51, 61])
    assert ticks(axes) == [(0, "0"), (1, "1"), (2, "2"), (3, "3"), (5, "0+1"), (7, "0+1+\n2+3")]
    (bars,) = (kept for kept in axes.collections if type(kept).__name__ == "LineCollection")
    half = 2 / 2**0.5  # the standard deviation of two numbers that differ by 2
    assert [path[:, 1] for path in bars.get_segments()] == [
        pytest.approx([51 - half, 51 + half]),
        pytest.approx([61 - half, 61 + half]),
    ]
    assert len(axes.get_legend().get_texts()) == 1


def test_a_panel_a_source_in_the_same_styles(tmp_path: Path, drawn: list[Figure], make_results: MakeResults) -> None:
    sources = [("timm:a", ["x", "y"]), ("timm:b", ["y"]), ("timm:c", ["y", "z"]), ("timm:d", ["x"])]
    rows = [
        {"model": model, "head": head, "head_config": "", "layer": layer, "test": 0.1 * number}
        for number, (model, heads) in enumerate(sources)
        for head, layer in product(heads, ["0", "1"])
    ]
    several = [row | {"dataset": "several", "test_map": row.pop("test"), "val_map": 0.5} for row in map(dict, rows[:2])]
    draw_layer_curve(summarise(tidy(make_results(*rows, *several))), tmp_path)
    panels = drawn[0].axes
    assert [axes.get_title() for axes in panels] == [
        *(f"{model}\non made" for model, _ in sources),
        "timm:a\non several",
    ]
    assert [axes.get_ylabel() for axes in panels] == ["test top-1 (%)"] * 4 + ["test mAP (%)"]
    styles = {(line.get_label(), line.get_color(), line.get_marker()) for axes in panels for line in axes.lines}
    assert len(styles) == 3
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["x", "y", "z"]
    draw_layer_curve(summarise(tidy(make_results(*rows))), tmp_path)
    drawn[1].canvas.draw()
    ((low, high),) = {axes.get_ylim() for axes in drawn[1].axes}
    assert (low, high) == (pytest.approx(-1.5), pytest.approx(31.5))  # 0 to 30 and a twentieth at either end


def test_only_the_most_data_is_drawn_over_layers(
    tmp_path: Path, drawn: list[Figure], make_results: MakeResults
) -> None:
    rows = [{"shots": shots, "test": test} for shots, test in (("4", 0.1), ("full", 0.8), ("16", 0.2))]
    draw_layer_curve(summarise(tidy(make_results(*rows))), tmp_path)
    assert [line.get_ydata() for line in drawn[0].axes[0].lines] == [pytest.approx([80])]


def test_shots_are_on_a_logarithmic_axis_at_the_selected_layers(
    tmp_path: Path, drawn: list[Figure], make_results: MakeResults
) -> None:
    levels = {"full": 0.8, "16": 0.5, "1": 0.1, "10": 0.4, "0.1": 0.6, "0.25": 0.7}
    picked = [{"shots": shots, "seed": s, "test": test + 0.02 * s} for shots, test in levels.items() for s in (0, 1)]
    better_by_test = [{"shots": shots, "layer": "1", "val_top1": 0.0, "test": 0.9} for shots in levels]
    lost = [{"head": "x", "shots": "1", **LOST}, {"head": "x", "shots": "full", "test": 0.3}]
    files = draw_shots_curve(summarise(tidy(make_results(*picked, *better_by_test, *lost))), tmp_path)
    assert files == [tmp_path / "shots_curve.png", tmp_path / "shots_curve.svg"]
    counts, fractions = drawn[0].axes
    assert [axes.get_xlabel() for axes in (counts, fractions)] == [
        "training images per class",
        "fraction of the training images",
    ]
    assert ticks(counts) == [(0, "1"), (pytest.approx(log2(10)), "10"), (4, "16"), (5, "full")]
    assert ticks(fractions) == [(pytest.approx(-log2(10)), "0.1"), (-2, "0.25"), (0, "full")]
    assert counts.lines[0].get_ydata() == pytest.approx([11, 41, 51, 81])
    assert fractions.lines[0].get_ydata() == pytest.approx([61, 71, 81])
    assert counts.lines[1].get_ydata() == pytest.approx([np.nan, 30], nan_ok=True)
    half = 2 / 2**0.5
    band = counts.collections[0].get_paths()[0].vertices
    assert {(x, round(y, 6)) for x, y in band} >= {(0, round(11 - half, 6)), (0, round(11 + half, 6))}


def test_a_run_in_which_all_diverged_is_drawn(tmp_path: Path, make_results: MakeResults) -> None:
    summary = summarise(tidy(make_results(LOST, {"shots": "4", **LOST})))
    assert all(
        file.stat().st_size > 0 for draw in (draw_layer_curve, draw_shots_curve) for file in draw(summary, tmp_path)
    )
