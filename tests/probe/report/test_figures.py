"""The layer curve: what is drawn, and that the same results give the same files."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tokenprobe.probe.report import figures
from tokenprobe.probe.report.figures import draw_layer_curve

SUMMARY = pd.DataFrame(
    {
        "head": ["ep:queries=8"] * 3 + ["linear:pool=mean"] * 3,
        "layer": ["10", "2", "9", "2", "9", "10"],
        "test_top1": [0.7, 0.2, 0.6, 0.1, 0.3, 0.5],
        "test_top1_std": [0.01, 0.02, 0.03, np.nan, np.nan, np.nan],
    }
)


def test_a_picture_and_a_vector_file_are_written(tmp_path: Path) -> None:
    files = draw_layer_curve(SUMMARY, tmp_path / "figures")
    assert files == [tmp_path / "figures/layer_curve.png", tmp_path / "figures/layer_curve.svg"]
    with Image.open(files[0]) as image:
        image.load()
        assert image.size == (1280, 800)
        assert len(np.unique(np.asarray(image.convert("L")))) > 10
    assert "<svg" in files[1].read_text()


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = draw_layer_curve(SUMMARY, tmp_path / "one"), draw_layer_curve(SUMMARY.copy(), tmp_path / "two")
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes()
    other = draw_layer_curve(SUMMARY.assign(test_top1=0.4), tmp_path / "other")
    assert other[0].read_bytes() != one[0].read_bytes()
    assert not re.search(r"<dc:date>", one[1].read_text())


def test_a_line_a_head_in_percent_over_layers_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []

    class KeptFigure(Figure):
        def __init__(self, **options: object) -> None:
            super().__init__(**options)
            drawn.append(self)

    monkeypatch.setattr(figures, "Figure", KeptFigure)
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
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("layer", "test top-1 (%)")


def test_more_heads_than_colours_can_be_drawn(tmp_path: Path) -> None:
    many = pd.concat([SUMMARY[:3].assign(head=f"ep:queries={2**power}") for power in range(9)])
    assert all(file.stat().st_size > 0 for file in draw_layer_curve(many, tmp_path))
