"""What several figures share: ranges of figures, lines with bands, points with bars, the mark of what is selected."""

from collections.abc import Sequence
from math import isnan
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ..compare import own_interval
from ..contents import KEY, Report
from ..summary import FIGURES
from .looks import Look, look_of

Entries = dict[str, Artist]
"""The entries of a legend, by their words."""
OVER_SEEDS, OVER_IMAGES = "± 1 std over seeds", "95 % interval over test images"
SELECTED = "selected"
MOST_EMPTY = 2.5
"""How much longer than a panel's own axis a common axis may be."""


def with_range(report: Report, rows: pd.DataFrame) -> tuple[pd.DataFrame, str | None]:
    """Return rows with the figure in percent, `y`, and the ends `low` and `high` of its range; and what the range is.

    The range is the standard deviation over seeds if any row has several, else the interval over test images.
    """
    y = 100 * rows["test"].astype(float)
    if (rows["n_seeds"] > 1).any():
        half = 100 * rows["test_std"].astype(float).fillna(0)
        return rows.assign(y=y, low=y - half, high=y + half), OVER_SEEDS
    keys = list(rows[KEY].itertuples(index=False, name=None))
    if not any(key in report.judged for key in keys):
        return rows.assign(y=y, low=y, high=y), None
    return with_interval(report, rows), OVER_IMAGES


def with_interval(report: Report, rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows with the figure in percent, `y`, and the ends of its interval over test images, if it is known."""
    y = 100 * rows["test"].astype(float)
    found = [
        (own.low, own.high) if own is not None else (np.nan, np.nan)
        for key in rows[KEY].itertuples(index=False, name=None)
        for own in [own_interval(report.judged[key]) if key in report.judged else None]
    ]
    ends = 100 * np.array(found, dtype=float).reshape(-1, 2)
    return rows.assign(
        y=y, low=np.where(np.isnan(ends[:, 0]), y, ends[:, 0]), high=np.where(np.isnan(ends[:, 1]), y, ends[:, 1])
    )


def draw_line(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    """Draw `y` over `x` with a band. What diverged leaves a gap. A single point has a bar."""
    if len(rows) < 2:
        draw_points(axes, rows, look)
        return
    rows = rows.sort_values("x")
    axes.plot(rows["x"], rows["y"], **look._asdict())
    if (rows["high"] > rows["low"]).any():
        axes.fill_between(rows["x"], rows["low"], rows["high"], color=look.color, alpha=0.18, linewidth=0)


def draw_points(axes: Axes, rows: pd.DataFrame, look: Look, *, across: bool = False) -> None:
    """Draw `y` over `x` as points with bars; `across` draws `y` along the horizontal axis instead."""
    if not len(rows):
        return
    bars = np.maximum([rows["y"] - rows["low"], rows["high"] - rows["y"]], 0)
    across_up = (rows["y"], rows["x"]) if across else (rows["x"], rows["y"])
    ends: dict[str, Any] = {"xerr" if across else "yerr": bars}
    axes.errorbar(
        *across_up, **ends, fmt="none", ecolor=look.color, elinewidth=mpl.rcParams["lines.linewidth"], capsize=2
    )
    axes.plot(*across_up, **look.points)


def ring(axes: Axes, x: float, y: float) -> None:
    """Mark a point as selected."""
    axes.plot([x], [y], **_ring())


def head_entries(report: Report, heads: list[str], *, lines: bool = True) -> Entries:
    """Return the legend's entries of heads, by readable name."""
    looks = {head: look_of(report.looks[head]) for head in heads}
    return {head: Line2D([], [], **(look._asdict() if lines else look.points)) for head, look in looks.items()}


def selected_entry(words: str = SELECTED) -> Entries:
    """Return the legend's entry of the mark."""
    return {words: Line2D([], [], **_ring())}


def band_entry(words: str | None, *, bars: bool = False) -> Entries:
    """Return the legend's entry of a band or of bars, if there are any."""
    if words is None:
        return {}
    return {words: Line2D([], [], color="0.4", marker="|") if bars else Patch(color="0.4", alpha=0.25, linewidth=0)}


def draw_chance(axes: Axes, chance: float) -> Entries:
    """Draw the accuracy of a guess if it is near the figures, and return the legend's entry."""
    if isnan(chance):
        return {}
    low, high = axes.get_ylim()
    near = 100 * chance > low - 0.6 * (high - low)
    options: dict[str, Any] = {"color": "0.35", "linestyle": (0, (1, 1.5)), "linewidth": 0.9}
    if near:
        axes.axhline(100 * chance, **options)
        axes.set_ylim(min(low, 100 * chance - 0.04 * (high - low)), high)
    words = f"chance, {100 * chance:.3g} %" + ("" if near else " (below)")
    return {words: Line2D([], [], **options | ({} if near else {"linestyle": "none"}))}


def figure_label(figure: str, split: str = "test") -> str:
    """Return the label of an axis of figures."""
    return f"{split} {FIGURES[figure]} (%)"


def plain_log(axis: Axis, *, subs: Sequence[float] = (1,)) -> None:
    """Label a logarithmic axis with short numbers: 0.5, 1k, 20M. Figures parse no formulas."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, place: short_number(value)))
    axis.set_minor_formatter(NullFormatter())


def short_number(value: float) -> str:
    """Write a number with a unit of thousands, millions, billions."""
    for unit, word in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{word}"
    return f"{value:g}"


def share_figures(panels: list[Axes], figures: list[str], *, across: bool = False) -> None:
    """Give panels one axis if all show the same figure, unless that would leave most of a panel empty."""
    ends = [axes.get_xlim() if across else axes.get_ylim() for axes in panels]
    limits = min(low for low, _ in ends), max(high for _, high in ends)
    if len(set(figures)) == 1 and limits[1] - limits[0] <= MOST_EMPTY * min(high - low for low, high in ends):
        for axes in panels:
            (axes.set_xlim if across else axes.set_ylim)(limits)


def _ring() -> dict[str, Any]:
    size = 2.3 * mpl.rcParams["lines.markersize"]
    return {
        "marker": "o", "markersize": size, "markerfacecolor": "none", "markeredgecolor": "black",
        "markeredgewidth": 0.8, "linestyle": "none", "zorder": 5,
    }  # fmt: skip
