"""The figure against cost: parameters and operations of each head at its selected layer, and the Pareto front."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..contents import Report
from ..summary import best_layers, with_most_data
from .canvas import add_legend, make_panels
from .looks import look_of
from .marks import draw_points, figure_label, head_entries, plain_log, share_figures, with_interval

COSTS = {"n_params": "parameters", "flops_forward": "FLOP per image"}


def draw_cost(report: Report) -> Figure | None:
    """Draw the heads of each source against parameters and operations per image. Heads without either are left out."""
    best = best_layers(with_most_data(report.summary)).dropna(subset="test")
    best = best[(best["n_params"].fillna(0) > 0) & (best["flops_forward"].fillna(0) > 0)]
    sources = [source for source, rows in best.groupby("source", sort=False) if len(rows) > 1]
    if not sources:
        return None
    figure, panels = make_panels(list(map(report.title, sources)), rows=len(COSTS))
    for number, axes in enumerate(panels):
        column = list(COSTS)[number % len(COSTS)]
        rows = with_interval(report, best[best["source"] == sources[number // len(COSTS)]])
        rows = rows.assign(x=rows[column].astype(float))
        _draw_front(axes, rows)
        for (_, spec), of_head in rows.groupby(["head", "look"], sort=False):
            draw_points(axes, of_head, look_of(spec))
        axes.set_xscale("log")
        plain_log(axes.xaxis, subs=(1, 2, 5) if rows["x"].max() < 100 * rows["x"].min() else (1,))
        axes.margins(x=0.12)
        axes.set_xlabel(COSTS[column])
        axes.set_ylabel(figure_label(rows["figure"].iloc[0]))
    share_figures(panels, list(best["figure"]))
    entries = head_entries(report, list(best["head"].unique()), lines=False)
    add_legend(figure, entries | {"Pareto front": Line2D([], [], **FRONT)})
    return figure


FRONT: dict[str, Any] = {"color": "0.45", "linewidth": 0.9, "linestyle": "-", "zorder": 1}


def _draw_front(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the steps through the heads that no cheaper head beats."""
    front = pareto_front(rows)
    axes.step(front["x"], front["y"], where="post", **FRONT)


def pareto_front(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose `y` is higher than that of all rows with at most the same `x`, by `x`."""
    ordered = rows.sort_values(["x", "y"], ascending=[True, False], kind="stable")
    before = ordered["y"].cummax().shift(fill_value=float("-inf"))
    return ordered[ordered["y"] > before]
