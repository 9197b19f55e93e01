"""Attention over layers, in bars and per class, above the accuracy of each layer."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tokenprobe.probe.report.figures.layers import NAMED_CLASSES, LayerAccuracy, draw_over_layers

LAYERS, TOKENS = ["2", "5", "11"], ["cls", "mean"]


def made_table(weights: np.ndarray, names: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"class": name, "layer": layer, "token": token, "weight": weights[i, j, k]}
            for i, name in enumerate(names)
            for j, layer in enumerate(LAYERS)
            for k, token in enumerate(TOKENS)
        ]
    )


def made_weights(n: int) -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(6), size=n).reshape(n, 3, 2)


def made_accuracy(layers: list[str]) -> LayerAccuracy:
    y = np.linspace(50, 60, len(layers))
    single = pd.DataFrame({"spec": "linear", "head": "linear probe", "layer": layers, "y": y, "low": y, "high": y})
    own = pd.DataFrame(
        {"spec": ["alf"], "head": ["ALF"], "layer": ["stack"], "y": [61.0], "low": [60.0], "high": [62.0]}
    )
    return LayerAccuracy(single, own, {}, "test top-1 (%)")


def ticks(figure: Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].get_xticklabels()]


def test_bars_are_the_weights_over_all_images() -> None:
    weights = made_weights(1)
    figure = draw_over_layers(made_table(weights, [""]), None)
    [axes] = figure.axes
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [bar.get_height() for bar in bars] == pytest.approx(weights[0].T.ravel())
    assert [bar.get_y() for bar in bars] == pytest.approx([0] * 3 + list(weights[0, :, 0]))
    assert ticks(figure, 0) == LAYERS
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["class token", "mean"]


def test_a_row_per_class_holds_its_sums_over_tokens_from_early_to_late() -> None:
    weights = made_weights(4)
    names = ["ant", "bee", "a class of a long name"]
    figure = draw_over_layers(made_table(weights, ["", *names]), None)
    sums = weights[1:].sum(2)
    order = np.argsort(sums @ [0, 1, 2])
    assert len(set(order)) == 3 and list(order) != [0, 1, 2]
    assert np.asarray(figure.axes[1].images[0].get_array()) == pytest.approx(sums[order])
    shown = [text.get_text() for text in figure.axes[1].get_yticklabels()]
    assert shown == [["ant", "bee", "a class of…"][place] for place in order]


def test_many_classes_are_drawn_without_names() -> None:
    n = NAMED_CLASSES + 1
    figure = draw_over_layers(made_table(made_weights(n + 1), ["", *map(str, range(n))]), None)
    assert np.asarray(figure.axes[1].images[0].get_array()).shape == (n, 3)
    assert not figure.axes[1].get_yticklabels()
    assert figure.axes[1].get_ylabel() == "41 classes, early to late"


def test_the_accuracy_stands_on_the_axis_of_all_layers() -> None:
    weights = made_weights(3)
    figure = draw_over_layers(made_table(weights, ["", "ant", "bee"]), made_accuracy(["0", "2", "5", "9", "11"]))
    bars = figure.axes[0]
    accuracy = next(axes for axes in figure.axes if axes.get_ylabel() == "test top-1 (%)")
    classes = next(axes for axes in figure.axes if axes.get_ylabel() == "class")
    assert [text.get_text() for text in accuracy.get_xticklabels()] == ["0", "2", "5", "9", "11"]
    line, own = accuracy.lines
    assert np.asarray(line.get_xdata()).tolist() == [0, 1, 2, 3, 4]
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([50, 52.5, 55, 57.5, 60])
    assert np.asarray(own.get_ydata()).tolist() == [61.0] * 2
    drawn: np.ndarray = np.ma.masked_invalid(np.ma.asarray(classes.images[0].get_array())).filled(np.nan)
    assert np.isnan(drawn[:, [0, 3]]).all()
    assert not np.isnan(drawn[:, [1, 2, 4]]).any()
    heights = [patch.get_height() for patch in bars.patches if isinstance(patch, Rectangle)]
    assert heights[:5] == pytest.approx([0, weights[0, 0, 0], weights[0, 1, 0], 0, weights[0, 2, 0]])


def test_joined_layers_are_one_place() -> None:
    table = made_table(made_weights(1), [""])
    table = table[table["layer"] == "2"].assign(layer="2+5")
    figure = draw_over_layers(table, made_accuracy(["2", "5"]))
    assert len(figure.axes) == 1
    assert ticks(figure, 0) == ["2+5"]
