"""The heat map and the confusion: their colours are the numbers of the tables."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from tokenprobe.probe.report.contents import Report
from tokenprobe.probe.report.figures.canvas import styled
from tokenprobe.probe.report.figures.grids import draw_confusion, draw_heat_map

MakeReport = Callable[..., Report]


@pytest.fixture(autouse=True)
def paper() -> Iterator[None]:
    with styled("paper"):
        yield


def test_layers_by_heads(make_report: MakeReport) -> None:
    rows = [
        {"head": head, "head_config": "", "layer": layer, "cell": f"none-layer_{layer}-{head}", "test": test}
        for head, tests in (("ep", (0.5, 0.7, 0.6)), ("aim", (0.4, 0.3, 0.35)))
        for layer, test in zip(("2", "10", "2+10"), tests, strict=True)
    ]
    lost = {"head": "cait", "head_config": "", "layer": "2", "status": "diverged in epoch 1", "selected": False}
    figure: Any = draw_heat_map(make_report(*rows, lost | {"cell": "none-layer_02-lost"}))
    assert figure is not None
    axes = figure.axes[0]
    shown = np.ma.filled(axes.images[0].get_array(), np.nan)
    assert shown == pytest.approx(np.array([[50, 70, 60], [40, 30, 35], [np.nan] * 3]), nan_ok=True)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "10", "2+10"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["EP", "AIM", "CaiT"]
    assert [text.get_text() for text in axes.texts][:7] == ["50.0", "70.0", "60.0", "40.0", "30.0", "35.0", "div."]
    frames = [patch.get_xy() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert frames == [(0.5, -0.5), (-0.5, 0.5)], "layer 10 of EP, and layer 2 of AIM"


def test_one_layer_is_no_map(make_report: MakeReport) -> None:
    assert draw_heat_map(make_report({"test": 0.5})) is None


def test_a_confusion_in_percent_of_the_images_of_a_class(make_report: MakeReport) -> None:
    report = make_report({"test": 0.5})
    figure: Any = draw_confusion(report)
    confusion = report.confusion(report.sources[0])
    assert figure is not None and confusion is not None
    axes = figure.axes[0]
    assert np.asarray(axes.images[0].get_array()) == pytest.approx(2 * confusion.counts), "50 images a class"
    assert [text.get_text() for text in axes.get_yticklabels()] == [f"class {number}" for number in range(4)]
    assert {text.get_text() for text in axes.texts} == {"50"}
    assert axes.get_xlabel() == "predicted class"
    assert axes.get_title() == "timm:none: EP, 8 queries, layer 0"


def test_without_predictions_there_is_none(make_report: MakeReport) -> None:
    assert draw_confusion(make_report({"test": 0.5}, keeps=False)) is None
