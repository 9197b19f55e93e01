"""Figures over layers and over the number of training images: a line per head, a panel per backbone and data set."""

from collections.abc import Iterator
from math import ceil, log2

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...batches.layer_set import abbreviated
from ...batches.subsets import is_fraction
from ..contents import Report
from ..summary import best_layers, layer_order, shots_order, shots_words, with_most_data
from .canvas import add_legend, make_panels
from .dots import draw_one_layer
from .looks import look_of
from .marks import (
    Entries,
    band_entry,
    draw_chance,
    draw_line,
    draw_points,
    figure_label,
    head_entries,
    ring,
    selected_entry,
    share_figures,
    with_range,
)

MOST_TICKS = 12


def draw_layers(report: Report) -> Figure | None:
    """Draw each head over layers for the most data. Joined layers stand apart; a single layer is drawn as points.

    The ring marks the layer that the protocol selects for a head.
    """
    most = with_most_data(report.summary)
    if most["layer"].nunique() < 2:
        return draw_one_layer(report, most)
    sources = list(most["source"].unique())
    figure, panels = make_panels(list(map(report.title, sources)))
    entries = head_entries(report, list(most["head"].unique())) | selected_entry("selected layer")
    for axes, source in zip(panels, sources, strict=True):
        rows, words = with_range(report, most[most["source"] == source])
        places = _layer_places(rows["layer"])
        rows = rows.assign(x=rows["layer"].map(places))
        for (_, spec), of_head in rows.groupby(["head", "look"], sort=False):
            joined = ~of_head["layer"].str.isdigit()
            draw_line(axes, of_head[~joined], look_of(spec))
            draw_points(axes, of_head[joined], look_of(spec))
        _mark_selected(axes, rows)
        _label_layers(axes, places)
        _finish(axes, rows, f"{_data_words(rows)}")
        entries |= band_entry(words)
    _chances(report, panels, sources, entries, list(most["figure"]))
    add_legend(figure, entries)
    return figure


def draw_shots(report: Report) -> Figure | None:
    """Draw each head's selected layer over the number of training images, from few to all.

    The axis is logarithmic, in images per class or in fractions of all images, with "all" at the right end. A source
    with both units gets one panel per unit.
    """
    panels_of = list(_shots_panels(best_layers(report.summary)))
    if report.summary["shots"].nunique() < 2 or not panels_of:
        return None
    figure, panels = make_panels([report.title(source) for source, _, _ in panels_of])
    entries = head_entries(report, list(report.summary["head"].unique()))
    for axes, (_, rows, by_fraction) in zip(panels, panels_of, strict=True):
        rows, words = with_range(report, rows)
        places = _shots_places(rows["shots"])
        for (_, spec), of_head in rows.assign(x=rows["shots"].map(places)).groupby(["head", "look"], sort=False):
            draw_line(axes, of_head, look_of(spec))
        axes.set_xticks(list(places.values()), ["all" if shots == "full" else shots for shots in places])
        axes.set_xlabel("fraction of the training images" if by_fraction else "training images per class")
        _finish(axes, rows, "")
        entries |= band_entry(words)
    sources = [source for source, _, _ in panels_of]
    _chances(report, panels, sources, entries, [rows["figure"].iloc[0] for _, rows, _ in panels_of])
    add_legend(figure, entries)
    return figure


def _mark_selected(axes: Axes, rows: pd.DataFrame) -> None:
    best = best_layers(rows)
    for row in rows.loc[best.index].dropna(subset="y").itertuples():
        ring(axes, row.x, row.y)


def _finish(axes: Axes, rows: pd.DataFrame, data: str) -> None:
    axes.set_ylabel(figure_label(rows["figure"].iloc[0]) + data)


def _data_words(rows: pd.DataFrame) -> str:
    shots = rows["shots"].iloc[0]
    return "" if shots == "full" else f",\n{shots_words(shots)}"


def _chances(report: Report, panels: list[Axes], sources: list[str], entries: Entries, figures: list[str]) -> None:
    """Give panels one axis, and draw the accuracy of a guess in each."""
    share_figures(panels, figures)
    for axes, source in zip(panels, sources, strict=True):
        entries |= draw_chance(axes, report.chance(source))
    share_figures(panels, figures)


def _layer_places(layers: pd.Series) -> dict[str, int]:
    """Return the place of each layer on the axis: single layers at their index, joined layers after a gap."""
    ordered = sorted(set(layers), key=layer_order)
    single = [layer for layer in ordered if layer.isdigit()]
    step = max(2, ceil((int(single[-1]) - int(single[0])) / 6)) if single else 2
    first = int(single[-1]) + step if single else 0
    places = {layer: int(layer) for layer in single}
    return places | {layer: first + step * number for number, layer in enumerate(ordered[len(single) :])}


def _label_layers(axes: Axes, places: dict[str, int]) -> None:
    """Write whole layers only, and draw a line before the joined ones."""
    joined = {layer: place for layer, place in places.items() if not layer.isdigit()}
    single = [layer for layer in places if layer not in joined]
    shown = [*single[:: ceil(len(single) / MOST_TICKS) or 1], *joined]
    axes.set_xticks([places[layer] for layer in shown], [_two_a_line(layer) for layer in shown])
    axes.set_xlabel("layer")
    if joined and single:
        axes.axvline((places[single[-1]] + min(joined.values())) / 2, color="0.6", linewidth=0.8, linestyle=":")
        axes.set_xlabel("layer      (right: layers joined)")
    axes.margins(x=0.06)


def _two_a_line(layer: str) -> str:
    indices = abbreviated(layer).split("+")
    return "+\n".join("+".join(indices[start : start + 2]) for start in range(0, len(indices), 2))


def _shots_panels(best: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, bool]]:
    """Yield each panel's source, its rows, and whether its axis shows fractions. Each unit has its own panels."""
    fraction, full = best["shots"].map(is_fraction), best["shots"] == "full"
    for of_unit, by_fraction in ((~fraction & ~full, False), (fraction, True)):
        for source in best["source"][of_unit].unique():
            yield str(source), best[(of_unit | full) & (best["source"] == source)], by_fraction


def _shots_places(shots: pd.Series) -> dict[str, float]:
    """Return the logarithmic place of each `shots`. "full" is fraction 1, or one doubling beyond the most images."""
    ordered = sorted(set(shots), key=shots_order, reverse=True)
    places = {shot: log2(float(shot)) for shot in ordered if shot != "full"}
    most = max(places.values())
    return places | ({"full": 0.0 if most < 0 else most + 1} if "full" in ordered else {})
