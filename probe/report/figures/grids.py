"""Figures of coloured cells: layers by heads, and the confusion of classes."""

from textwrap import fill

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ...batches.layer_set import abbreviated
from ..contents import Report
from ..summary import best_layers, layer_order, with_most_data
from .canvas import make_panels
from .dots import folded, height_of
from .marks import figure_label

COLOURS = "cividis"
"""A map of colours that grows in lightness, so that it can be read in grey and by colour-blind readers."""
NUMBERED_LAYERS = 8
NAMED_CLASSES = 20
CONFUSION = 1.4
"""Height of a confusion, as a multiple of the style's."""
LONGEST_CLASS, LONGEST_TITLE = 12, 40


def draw_heat_map(report: Report) -> Figure | None:
    """Draw layers by heads for the most data, one panel per source. A frame marks each head's selected layer."""
    most = with_most_data(report.summary)
    if most["layer"].nunique() < 2:
        return None
    sources = list(most["source"].unique())
    figure, panels = make_panels(list(map(report.title, sources)), height=height_of(most["head"].nunique()), in_row=2)
    values = 100 * most["test"].dropna()
    for axes, source in zip(panels, sources, strict=True):
        rows = most[most["source"] == source]
        layers = sorted(set(rows["layer"]), key=layer_order)
        heads = list(rows["head"].unique())
        table = rows.pivot(index="head", columns="layer", values="test").loc[heads, layers].astype(float) * 100
        same = len(set(most["figure"])) == 1
        limits = (values.min(), values.max()) if same and len(values) else (None, None)
        image = axes.imshow(table.to_numpy(), cmap=COLOURS, aspect="auto", vmin=limits[0], vmax=limits[1])
        if len(layers) <= NUMBERED_LAYERS:
            _write_numbers(axes, table, image.norm)
        for row in best_layers(rows).dropna(subset="test").itertuples():
            place = layers.index(row.layer) - 0.5, heads.index(row.head) - 0.5
            axes.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor="#D55E00", linewidth=1.4, clip_on=False))
        step = 1 if len(layers) <= 2 * NUMBERED_LAYERS else 2
        axes.set_xticks(range(0, len(layers), step), [abbreviated(layer) for layer in layers[::step]])
        axes.set_yticks(range(len(heads)), list(map(folded, heads)))
        axes.set_xlabel("layer (frame: selected)")
        _plain(axes)
        bar = figure.colorbar(image, ax=axes, pad=0.02, fraction=0.05)
        bar.set_label(figure_label(rows["figure"].iloc[0]))
        bar.outline.set_visible(False)
    return figure


def draw_confusion(report: Report) -> Figure | None:
    """Draw which classes are taken for which by the selected head of each source, in percent of the label's images."""
    found = {source: report.confusion(source) for source in report.sources}
    known = {source: each for source, each in found.items() if each is not None}
    if not known:
        return None
    titles = [f"{report.title(source)}: {each.head}, layer {each.layer}" for source, each in known.items()]
    figure, panels = make_panels(titles, height=CONFUSION, in_row=2)
    for axes, confusion in zip(panels, known.values(), strict=True):
        n_images = confusion.counts.sum(1, keepdims=True)
        shares = 100 * confusion.counts / np.where(n_images > 0, n_images, np.nan)
        image = axes.imshow(shares, cmap="Greys", vmin=0, vmax=100)
        names, n = [_cut(name) for name in confusion.classes], len(confusion.classes)
        if n <= NAMED_CLASSES:
            axes.set_xticks(range(n), names, rotation=90)
            axes.set_yticks(range(n), names)
            _write_shares(axes, shares)
        else:
            axes.set_xticks([])
            axes.set_yticks([])
        axes.set_xlabel("predicted class")
        axes.set_title(fill(titles[panels.index(axes)], LONGEST_TITLE))
        axes.set_ylabel("class")
        _plain(axes)
        bar = figure.colorbar(image, ax=axes, pad=0.02, fraction=0.045)
        bar.set_label("images of the class (%)")
        bar.outline.set_visible(False)
    return figure


def _write_numbers(axes: Axes, table: pd.DataFrame, norm: object) -> None:
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        text = "div." if np.isnan(value) else f"{value:.1f}"
        light = not np.isnan(value) and norm(value) > 0.55  # type: ignore[operator]
        colour = "black" if light or np.isnan(value) else "white"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=_small())


def _write_shares(axes: Axes, shares: np.ndarray) -> None:
    """Write whole percents, where there is at least one."""
    for (row, column), value in np.ndenumerate(shares):
        if value >= 0.5:
            colour = "white" if value > 55 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=_small() - 0.5)


def _plain(axes: Axes) -> None:
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _small() -> float:
    return 0.8 * float(mpl.rcParams["font.size"])


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_CLASS else f"{name[: LONGEST_CLASS - 1]}…"
