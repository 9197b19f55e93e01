"""Figures of a run. No display is needed, and the same results give the same files."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from math import ceil, log2
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ...store.durable import write_durably
from ..batches.layer_set import abbreviated
from .summary import FIGURES, best_layers, layer_order, shots_order, with_most_data

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
"""Okabe and Ito's palette: colour-blind readers can tell its colours apart."""
MARKERS = "osD^vPX"
DASHES = ["-", "--", ":"]
PANEL_INCHES = (6.4, 4.0)
PANELS_A_ROW = 3
LEGEND_INCHES = 2.2
MOST_TICKS = 12
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"dpi": 200, "metadata": {"Software": None}},
    "svg": {"metadata": {"Date": None}},
}
MOST_HEADS_INSIDE = 4
"""Most heads that a legend inside a single panel can name without hiding lines."""


def draw_layer_curve(summary: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the figure over layers for the most data, with one panel per source and one line per head.

    The band around a line is one standard deviation over seeds. Joined layers stand to the right of single layers.

    Args:
        summary: from `summarise`.
        folder: where `layer_curve.png` and `.svg` go.

    Returns:
        The files.
    """
    most = with_most_data(summary)
    panels = [(str(source), rows) for source, rows in most.groupby("source", sort=False)]
    styles = _styles(summary)
    figure, all_axes = _panels([name for name, _ in panels], n_heads=len(styles))
    for axes, (_, rows) in zip(all_axes, panels, strict=True):
        places = _layer_places(rows["layer"])
        for head, of_head in rows.assign(x=rows["layer"].map(places)).groupby("head", sort=False):
            joined = ~of_head["layer"].str.isdigit()
            _draw_line(axes, of_head[~joined], styles[head], str(head))
            _draw_points(axes, of_head[joined], styles[head], str(head))
        _label_layers(axes, places)
    _label_figures(all_axes, [rows for _, rows in panels])
    _add_legend(figure, all_axes)
    return _save(figure, folder, "layer_curve")


def draw_shots_curve(summary: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw the figure of each head's selected layer over the number of training images, with one panel per source.

    The axis is logarithmic, in images per class or in fractions of all images, with "full" at the right end. A source
    with both units gets one panel per unit.

    Args:
        summary: from `summarise`, with two or more shots.
        folder: where `shots_curve.png` and `.svg` go.

    Returns:
        The files.
    """
    panels = list(_shots_panels(best_layers(summary)))
    styles = _styles(summary)
    figure, all_axes = _panels([name for name, _, _ in panels], n_heads=len(styles))
    for axes, (_, rows, by_fraction) in zip(all_axes, panels, strict=True):
        places = _shots_places(rows["shots"])
        for head, of_head in rows.assign(x=rows["shots"].map(places)).groupby("head", sort=False):
            _draw_line(axes, of_head, styles[head], str(head))
        axes.set_xticks(list(places.values()), list(places))
        axes.set_xlabel("fraction of the training images" if by_fraction else "training images per class")
    _label_figures(all_axes, [rows for _, rows, _ in panels])
    _add_legend(figure, all_axes)
    return _save(figure, folder, "shots_curve")


def _panels(names: Sequence[str], n_heads: int) -> tuple[Figure, list[Axes]]:
    """Make a figure with one panel per name. The names are shown if there are several."""
    n_columns = min(len(names), PANELS_A_ROW)
    n_rows = ceil(len(names) / n_columns)
    width, height = PANEL_INCHES
    width *= n_columns if n_columns == 1 else 0.75 * n_columns
    beside = 0.0 if _legend_inside(len(names), n_heads) else LEGEND_INCHES
    figure = Figure(figsize=(width + beside, height * n_rows), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = [figure.add_subplot(n_rows, n_columns, number + 1) for number in range(len(names))]
    for axes, name in zip(all_axes, names, strict=True):
        if len(names) > 1:
            axes.set_title(name.replace(" on ", "\non ", 1), fontsize="small", parse_math=False)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, all_axes


def _styles(summary: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return each head's colour, marker and dashes: the same in all panels and figures."""
    return {
        head: {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
            "linestyle": DASHES[number // len(COLOURS) % len(DASHES)],
        }
        for number, head in enumerate(summary["head"].unique())
    }


def _draw_line(axes: Axes, rows: pd.DataFrame, style: dict[str, Any], head: str) -> None:
    """Draw a head over `x`, with a band. Diverged cells leave a gap. A single point has a bar instead of a band."""
    if len(rows) < 2:
        _draw_points(axes, rows, style, head)
        return
    rows = rows.sort_values("x")
    mean, std = 100 * rows["test"], 100 * rows["test_std"].fillna(0)
    axes.plot(rows["x"], mean, markersize=5, label=head, **style)
    axes.fill_between(rows["x"], mean - std, mean + std, color=style["color"], alpha=0.2, linewidth=0)


def _draw_points(axes: Axes, rows: pd.DataFrame, style: dict[str, Any], head: str) -> None:
    """Draw a head at places that have no order."""
    if len(rows):
        mean, std = 100 * rows["test"], 100 * rows["test_std"].fillna(0)
        axes.plot(rows["x"], mean, markersize=5, label=head, **style | {"linestyle": "none"})
        axes.errorbar(rows["x"], mean, std, fmt="none", ecolor=style["color"], alpha=0.5)


def _layer_places(layers: pd.Series) -> dict[str, int]:
    """Return the place of each layer on the axis: single layers at their index, joined layers after a gap."""
    ordered = sorted(set(layers), key=layer_order)
    single = [layer for layer in ordered if layer.isdigit()]
    first = int(single[-1]) + 2 if single else 0
    places = {layer: int(layer) for layer in single}
    return places | {layer: first + 2 * number for number, layer in enumerate(ordered[len(single) :])}


def _label_layers(axes: Axes, places: dict[str, int]) -> None:
    axes.set_xlabel("layer")
    joined = {layer: place for layer, place in places.items() if not layer.isdigit()}
    if not joined:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    single = [layer for layer in places if layer not in joined]
    shown = [*single[:: ceil(len(single) / MOST_TICKS) or 1], *joined]
    axes.set_xticks([places[layer] for layer in shown], [_two_a_line(layer) for layer in shown])


def _two_a_line(layer: str) -> str:
    indices = abbreviated(layer).split("+")
    return "+\n".join("+".join(indices[start : start + 2]) for start in range(0, len(indices), 2))


def _shots_panels(best: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, bool]]:
    """Yield each panel's name, its rows, and whether its axis shows fractions. Each unit has its own panels."""
    fraction, full = best["shots"].str.contains(".", regex=False), best["shots"] == "full"
    for of_unit, by_fraction in ((~fraction & ~full, False), (fraction, True)):
        for source in best["source"][of_unit].unique():
            yield str(source), best[(of_unit | full) & (best["source"] == source)], by_fraction


def _shots_places(shots: pd.Series) -> dict[str, float]:
    """Return the logarithmic place of each `shots`. "full" is fraction 1, or one doubling beyond the most images."""
    ordered = sorted(set(shots), key=shots_order, reverse=True)
    places = {shot: log2(float(shot)) for shot in ordered if shot != "full"}
    most = max(places.values())
    return places | ({"full": 0.0 if most < 0 else most + 1} if "full" in ordered else {})


def _label_figures(all_axes: Sequence[Axes], panels: Sequence[pd.DataFrame]) -> None:
    """Label the vertical axes. Panels share one axis if all show the same figure."""
    for axes, rows in zip(all_axes, panels, strict=True):
        axes.set_ylabel(f"test {FIGURES[rows['figure'].iloc[0]]} (%)")
    if len({rows["figure"].iloc[0] for rows in panels}) == 1:
        for axes in all_axes[1:]:
            axes.sharey(all_axes[0])
        all_axes[0].autoscale(axis="y")  # a shared axis has the limits of the first panel only


def _legend_inside(n_panels: int, n_heads: int) -> bool:
    return n_panels == 1 and n_heads <= MOST_HEADS_INSIDE


def _add_legend(figure: Figure, all_axes: Sequence[Axes]) -> None:
    """Name the heads once: inside a single panel if they are few, else to the right of all panels."""
    lines: dict[str, Line2D] = {}
    for line in (line for axes in all_axes for line in axes.lines):
        lines.setdefault(str(line.get_label()), line)
    names, handles = list(lines), list(lines.values())
    if _legend_inside(len(all_axes), len(lines)):
        all_axes[0].legend(handles, names, frameon=False)
    else:
        figure.legend(handles, names, frameon=False, loc="outside right center", fontsize="small")


def _save(figure: Figure, folder: Path, name: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for kind, options in SAVE_OPTIONS.items():
        content = BytesIO()
        with mpl.rc_context({"svg.hashsalt": "tokenprobe"}):
            figure.savefig(content, format=kind, **options)
        files.append(folder / f"{name}.{kind}")
        write_durably(files[-1], content.getvalue())
    return files
