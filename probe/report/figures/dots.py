"""Figures of points with bars, a row per head or backbone: one layer, backbones side by side, selected against peak."""

from textwrap import fill
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..contents import Report
from ..leaders import TABLE
from ..summary import best_layers, with_most_data
from .canvas import add_legend, make_panels
from .looks import look_of
from .marks import (
    Entries,
    band_entry,
    draw_points,
    figure_label,
    head_entries,
    share_figures,
    with_interval,
    with_range,
)

LONGEST_ROW = 18
"""Most characters on a line beside a row."""
ROW_INCHES, EDGE_INCHES = 0.19, 0.62
"""Height of a row of points, and of a panel's axis with its labels, at the size of a paper."""


def draw_one_layer(report: Report, rows: pd.DataFrame) -> Figure:
    """Draw the heads of one layer as points with bars, one row per head."""
    sources = list(rows["source"].unique())
    figure, panels = make_panels(list(map(report.title, sources)), height=height_of(rows["head"].nunique()))
    entries: Entries = {}
    for axes, source in zip(panels, sources, strict=True):
        of_source, words = with_range(report, rows[rows["source"] == source])
        _rows_of_heads(axes, of_source)
        axes.set_xlabel(f"{figure_label(of_source['figure'].iloc[0])} on layer {of_source['layer'].iloc[0]}")
        entries |= band_entry(words, bars=True)
    share_figures(panels, list(rows["figure"]), across=True)
    add_legend(figure, entries)
    return figure


def draw_backbones(report: Report) -> Figure | None:
    """Draw the backbones of each data set side by side, at the selected layers: one row per backbone."""
    most = report.leaders["shots"] == report.leaders.groupby("dataset")["shots"].transform("first")
    tables = [(key[0], rows) for key, rows in report.leaders[most].groupby(TABLE, sort=False)]
    tables = [(dataset, rows) for dataset, rows in tables if rows["source"].nunique() > 1]
    if not tables:
        return None
    n_rows = max(rows["backbone"].nunique() * (1 + 0.45 * rows["head"].nunique()) for _, rows in tables)
    figure, panels = make_panels([dataset for dataset, _ in tables], height=height_of(n_rows * 0.8))
    heads = list(dict.fromkeys(head for _, rows in tables for head in rows["head"]))
    entries = head_entries(report, heads, lines=False)
    for axes, (_, rows) in zip(panels, tables, strict=True):
        backbones = list(rows["backbone"].unique())
        known = with_interval(report, rows)
        offsets = {head: 0.7 * ((index + 0.5) / len(heads) - 0.5) for index, head in enumerate(heads)}
        known["x"] = [backbones.index(row.backbone) + offsets[row.head] for row in known.itertuples()]
        for (_, spec), of_head in known.groupby(["head", "look"], sort=False):
            draw_points(axes, of_head, look_of(spec), across=True)
        axes.set_yticks(range(len(backbones)), [fill(name, LONGEST_ROW, break_long_words=False) for name in backbones])
        axes.set_ylim(len(backbones) - 0.5, -0.5)
        axes.set_xlabel(figure_label(rows["figure"].iloc[0]))
        entries |= band_entry("95 % interval over test images" if rows["low"].notna().any() else None, bars=True)
    add_legend(figure, entries)
    return figure


def draw_peaks(report: Report) -> Figure | None:
    """Draw, per head, the selected figure, its peak over epochs, and the highest peak over layers, rates and seeds."""
    most = with_most_data(report.summary)
    best = best_layers(most).dropna(subset="test")
    best = best[best["protocol"] == "select"]
    if best.empty:
        return None
    sources = list(best["source"].unique())
    figure, panels = make_panels(list(map(report.title, sources)), height=height_of(best["head"].nunique()))
    size = mpl.rcParams["lines.markersize"]
    for axes, source in zip(panels, sources, strict=True):
        rows = best[best["source"] == source].reset_index(drop=True)
        same = report.cells[(report.cells["source"] == source) & (report.cells["shots"] == rows["shots"].iloc[0])]
        highest = rows["head"].map(same.groupby("head")["peak"].max())
        for place, row in enumerate(rows.itertuples()):
            look = look_of(row.look)
            axes.plot([100 * row.test, 100 * highest[place]], [place, place], color=look.color, linewidth=0.8)
            axes.plot([100 * row.peak], [place], color=look.color, marker="o", markersize=size + 2, markerfacecolor="w")
            axes.plot([100 * row.test], [place], color=look.color, marker="o", markersize=size)
            axes.plot([100 * highest[place]], [place], color=look.color, marker="|", markersize=size + 5)
        _name_rows(axes, list(rows["head"]))
        axes.set_xlabel(figure_label(rows["figure"].iloc[0]))
    share_figures(panels, list(best["figure"]), across=True)
    grey: dict[str, Any] = {"color": "0.3", "linestyle": "none"}
    add_legend(
        figure,
        {
            "selected": Line2D([], [], marker="o", **grey),
            "peak over epochs": Line2D([], [], marker="o", markerfacecolor="w", markersize=size + 2, **grey),
            "highest of layers, rates, seeds": Line2D([], [], marker="|", markersize=size + 5, **grey),
        },
    )
    return figure


def _rows_of_heads(axes: Axes, rows: pd.DataFrame) -> None:
    rows = rows.assign(x=range(len(rows)))
    for row in rows.index:
        draw_points(axes, rows.loc[[row]], look_of(rows.loc[row, "look"]), across=True)
    _name_rows(axes, list(rows["head"]))


def _name_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), list(map(folded, names)))
    axes.set_ylim(len(names) - 0.4, -0.6)


def folded(name: str) -> str:
    """Break a long name of a head after its kind."""
    return name.replace(", ", ",\n", 1) if len(name) > LONGEST_ROW else name


def height_of(n_rows: float) -> float:
    """Return the height of a panel of some rows, as a multiple of the style's."""
    inches = mpl.rcParams["figure.figsize"][1]
    scale = mpl.rcParams["font.size"] / 7
    return float((EDGE_INCHES + ROW_INCHES * max(n_rows, 2)) * scale / inches)
