"""Where the information is: attention over layers, per class, above the accuracy of each layer, on one axis."""

from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ....store.layout import MEAN, PATCH, PREFIX
from ...batches.layer_set import abbreviated
from ...batches.token_shape import CLS
from ..contents import Report
from ..summary import layer_order
from .attention import cut_label
from .canvas import add_legend
from .grids import COLOURS
from .looks import look_of
from .marks import Entries, band_entry, draw_line, figure_label, head_entries, with_range

SHADES = {CLS: "#0072B2", MEAN: "#E69F00", PATCH: "#009E73", PREFIX: "#CC79A7"}
WORDS = {CLS: "class token", MEAN: "mean", PATCH: "patch tokens", PREFIX: "prefix tokens"}
NAMED_CLASSES = 40
BARS, ROW, CURVE = 0.55, 0.075, 0.9
"""Heights of the bars, of one class and of the curve, as multiples of the style's panel."""
FEWEST_ROWS, MOST_ROWS = 5, 40
MOST_TICKS = 12


class LayerAccuracy(NamedTuple):
    """The figures of single layers of a run, and that of one cell.

    Attributes:
        single: rows of the summary, with the columns y, low and high of `with_range`; one per head and layer.
        own: the row of the cell itself, by the same columns.
        entries: of the legend.
        label: of the axis.
    """

    single: pd.DataFrame
    own: pd.DataFrame
    entries: Entries
    label: str


def layer_accuracy(report: Report, cell: str) -> LayerAccuracy | None:
    """Return the figures of the single layers of a cell's backbone and data, or None of fewer than two layers.

    A cell whose fit goes on has a head before it has a row; of it too, None.
    """
    rows = report.cells[report.cells["cell"] == cell].to_dict("records")
    if not rows:
        return None
    row = rows[0]
    same = (report.summary["source"] == row["source"]) & (report.summary["shots"] == row["shots"])
    known, words = with_range(report, report.summary[same])
    single = known[known["layer"].str.isdigit()].dropna(subset="y")
    if single["layer"].nunique() < 2:
        return None
    own = known[(known["head"] == row["head"]) & (known["layer"] == row["layer"])]
    entries = head_entries(report, list(single["head"].unique()))
    if row["layer"] not in set(single["layer"]):
        look = look_of(row["spec"])
        entries[f"{row['head']}, stacked layers"] = Line2D([], [], color=look.color, linestyle=look.linestyle)
    return LayerAccuracy(single, own, entries | band_entry(words), figure_label(row["figure"]))


def draw_over_layers(table: pd.DataFrame, accuracy: LayerAccuracy | None) -> Figure:
    """Draw attention over layers: bars over all images, and one row per class. Below, the accuracy of each layer.

    Classes are in the order of the mean layer that they attend to, from early to late.

    Args:
        table: columns class, layer, token and weight; one row of each combination. Rows with an empty class are over
            all images.
        accuracy: of single layers, or None. Not drawn under the bar of joined layers.
    """
    attended = list(dict.fromkeys(table["layer"]))
    if not all(layer.isdigit() for layer in attended):  # joined layers have no place among single ones
        accuracy = None
    single = [] if accuracy is None else list(accuracy.single["layer"])
    layers = sorted({*attended, *single}, key=layer_order)
    shares = table.groupby(["class", "layer"], sort=False)["weight"].sum().unstack().reindex(columns=layers)
    classes = _early_first(shares.drop(index=""))
    heights = [BARS, *([_height_of(len(classes))] if len(classes) else []), *([CURVE] if accuracy else [])]
    width, inches = mpl.rcParams["figure.figsize"]
    figure = Figure(figsize=(width, inches * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(heights), 2, width_ratios=(1, 0.035), height_ratios=heights)
    panels = [figure.add_subplot(grid[0, 0])]
    panels += [figure.add_subplot(grid[row, 0], sharex=panels[0]) for row in range(1, len(heights))]
    _draw_bars(panels[0], table[table["class"] == ""], layers)
    if len(classes):
        _draw_classes(figure, panels[1], figure.add_subplot(grid[1, 1]), classes)
    if accuracy is not None:
        _draw_accuracy(panels[-1], accuracy, layers)
    for axes in panels:
        axes.tick_params(labelbottom=axes is panels[-1])
    step = -(-len(layers) // MOST_TICKS)
    panels[-1].set_xticks(range(0, len(layers), step), list(map(abbreviated, layers[::step])))
    panels[-1].set_xlabel("layer")
    panels[-1].set_xlim(-0.5, len(layers) - 0.5)
    if accuracy is not None:
        add_legend(figure, accuracy.entries)
    return figure


def _early_first(shares: pd.DataFrame) -> pd.DataFrame:
    filled = shares.fillna(0).to_numpy()
    mean_layer = filled @ np.arange(filled.shape[1]) / np.maximum(filled.sum(1), 1e-12)
    return shares.iloc[np.argsort(mean_layer, kind="stable")]


def _height_of(n_classes: int) -> float:
    return ROW * min(max(n_classes, FEWEST_ROWS), MOST_ROWS)


def _draw_bars(axes: Axes, rows: pd.DataFrame, layers: list[str]) -> None:
    bottom = np.zeros(len(layers))
    for token in dict.fromkeys(rows["token"]):
        weights = rows[rows["token"] == token].set_index("layer")["weight"].reindex(layers).fillna(0).to_numpy()
        axes.bar(range(len(layers)), weights, bottom=bottom, color=SHADES[token], label=WORDS[token])
        bottom = bottom + weights
    axes.set_ylabel("attention,\nall images")
    axes.set_ylim(0, 1.4 * bottom.max())  # room for the legend
    axes.legend(loc="upper center", ncols=4)


def _draw_classes(figure: Figure, axes: Axes, beside: Axes, shares: pd.DataFrame) -> None:
    image = axes.imshow(shares.to_numpy(), cmap=COLOURS, aspect="auto")
    names = [cut_label(str(name)) for name in shares.index]
    shown = len(names) <= NAMED_CLASSES
    axes.set_yticks(range(len(names)) if shown else [], names if shown else [])
    axes.set_ylabel("class" if shown else f"{len(names):,} classes, early to late")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, cax=beside)
    bar.set_label("attention")
    bar.outline.set_visible(False)


def _draw_accuracy(axes: Axes, accuracy: LayerAccuracy, layers: list[str]) -> None:
    rows = accuracy.single.assign(x=[layers.index(layer) for layer in accuracy.single["layer"]])
    for spec, of_head in rows.groupby("spec", sort=False):
        draw_line(axes, of_head, look_of(str(spec)))
    for row in accuracy.own.dropna(subset="y").itertuples():
        look = look_of(row.spec)
        axes.axhline(row.y, color=look.color, linestyle=look.linestyle)
        axes.axhspan(row.low, row.high, color=look.color, alpha=0.12, linewidth=0)
    axes.set_ylabel(accuracy.label)
