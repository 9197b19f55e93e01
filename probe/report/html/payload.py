"""The values that the page shows: all cells by column, the points of the figures, curves, mistakes, and the origin."""

import platform
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from .... import __version__
from ....runtime.text import json_value, printable
from ..choices import choice_lines
from ..compare import own_interval
from ..contents import KEY, Report
from ..figures.cost import pareto_front
from ..figures.looks import look_of
from ..summary import FIGURES, best_layers, layer_order, shots_order, shots_words, status_lines
from .commands import describe_runs
from .gallery import gallery

COLUMNS = {
    "backbone": ("Backbone", "text"),
    "dataset": ("Data set", "text"),
    "head": ("Head", "text"),
    "layer": ("Layer", "order"),
    "shots": ("Training data", "order"),
    "seed": ("Seed", "number"),
    "lr": ("Base lr", "number"),
    "weight_decay": ("Weight decay or penalty", "number"),
    "selected": ("Selected", "text"),
    "val": ("Val %", "percent"),
    "test": ("Test %", "percent"),
    "peak": ("Peak %", "percent"),
    "best_epoch": ("Epoch", "number"),
    "n_params": ("Parameters", "count"),
    "flops_forward": ("FLOP per image", "count"),
    "train_seconds": ("Train seconds", "number"),
    "status": ("Status", "text"),
    "spec": ("Spec", "text"),
    "tokens": ("Tokens", "text"),
    "optimizer": ("Optimizer", "text"),
    "run": ("Run", "text"),
    "cell": ("Cell", "text"),
}
"""Columns of the table of cells: heading, and kind. A column with one value is written above the table."""
ALWAYS = ("head", "layer", "val", "test", "selected", "cell")
"""Columns that are shown even so."""
ONLY_IF_MANY = ("run",)
"""Columns that are not worth a word if all cells share their value."""
DASHES, OTHER_DASHES = {"-": "", "--": "6 4", ":": "2 3", "-.": "7 3 2 3"}, "6 2 2 2 2 2"
"""Dashes of lines in SVG, by their name in matplotlib."""
MOST_CONFUSED = 20
"""Pairs of classes that the page lists per source."""


def payload(report: Report) -> dict[str, Any]:
    """Return the page's values for JSON, without NaN. Figures are in percent, orders are lists of texts."""
    sources, summary = report.sources, report.summary
    heads = list(summary["head"].unique())
    content = {
        "title": sources[0] if len(sources) == 1 else f"{len(sources)} backbones and data sets",
        "answers": [[not line.startswith(" "), line.strip()] for line in report.answers],
        "warnings": list(report.warnings),
        "remarks": status_lines(report.cells),
        "notes": [f"{line[0].upper()}{line[1:]}" for line in choice_lines(report.cells)],
        "heads": [{"name": head, "spec": report.specs[head], **_look(report.looks[head])} for head in heads],
        "sources": [_source(report, source) for source in sources],
        "layers": sorted(set(summary["layer"]), key=layer_order),
        "shots": [[shots, shots_words(shots)] for shots in sorted(set(summary["shots"]), key=shots_order)],
        "table": _table(report.cells),
        "points": _points(report),
        "curves": _curves(report),
        "confused": [pair for source in sources for pair in _confused(report, source)],
        "gallery": gallery(report),
        "runs": describe_runs(report.runs),
        "versions": {
            "tokenprobe": __version__,
            "Python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "pandas")},
        },
    }
    plain: dict[str, Any] = json_value(content)
    return plain


def _look(spec: str) -> dict[str, str]:
    look = look_of(spec)
    return {"color": look.color, "marker": look.marker, "dashes": DASHES.get(look.linestyle, OTHER_DASHES)}


def _source(report: Report, source: str) -> dict[str, Any]:
    rows = report.summary[report.summary["source"] == source]
    return {
        "name": source,
        "backbone": rows["backbone"].iloc[0],
        "dataset": printable(rows["dataset"].iloc[0]),
        "figure": FIGURES[rows["figure"].iloc[0]],
        "chance": 100 * report.chance(source),
        "several_seeds": bool((rows["n_seeds"] > 1).any()),
    }


def _table(cells: pd.DataFrame) -> dict[str, Any]:
    """Return the cells by column. Texts are numbers of words, as most repeat; words stand in their sorting order."""
    shown = cells.assign(
        selected=cells["selected"].map({True: "yes", False: "no"}),
        dataset=cells["dataset"].map(printable),
        run=cells["run"].map(printable),
        **{name: 100 * cells[name] for name in ("val", "test", "peak")},
    )
    columns, same = [], []
    for name, (label, kind) in COLUMNS.items():
        values = shown[name]
        if name not in ALWAYS and values.nunique(dropna=False) == 1:
            value = values.iloc[0]
            known = name not in ONLY_IF_MANY and not pd.isna(value) and value != ""
            same += [[label, _word(name, value)]] if known else []
        elif kind in ("text", "order"):
            key = {"layer": layer_order, "shots": shots_order}.get(name, str)
            words = sorted(set(values), key=key)
            codes = values.map({word: code for code, word in enumerate(words)}).tolist()
            columns.append({"name": name, "label": label, "kind": "text", "words": words, "codes": codes})
        else:
            columns.append({"name": name, "label": label, "kind": kind, "values": _numbers(values)})
    return {"n": len(cells), "columns": columns, "same": same}


def _word(name: str, value: Any) -> str:
    """Return a value that all cells share as text."""
    if name == "shots":
        return shots_words(value)
    return value if isinstance(value, str) else f"{value:g}"


def _points(report: Report) -> list[dict[str, Any]]:
    """Return one point per row of the summary that has a figure, with its interval over test images if it is known."""
    summary = report.summary
    best, front = set(best_layers(summary).index), set(_fronts(summary))
    cells = {key: list(rows["cell"]) for key, rows in report.cells[report.cells["selected"]].groupby(KEY, sort=False)}
    points = []
    for row in summary.dropna(subset="test").itertuples():
        key = (row.source, row.head, row.shots, row.layer)
        own = own_interval(report.judged[key]) if key in report.judged else None
        points.append(
            {
                **{name: getattr(row, name) for name in (*KEY, "n_seeds")},
                **{name: _number(getattr(row, name)) for name in ("n_test", "lr", "weight_decay", "n_params")},
                "flops": _number(row.flops_forward),
                "test": 100 * row.test,
                "std": 100 * row.test_std,
                "interval": None if own is None else [100 * end for end in (own.low, own.high)],
                "best": row.Index in best,
                "front": [name for name in ("n_params", "flops") if (row.Index, name) in front],
                "cells": cells[key],
            }
        )
    return points


def _fronts(summary: pd.DataFrame) -> Iterator[tuple[Any, str]]:
    """Yield the rows that no cheaper head beats, and by which cost, as the figure `cost` has them."""
    best = best_layers(summary).dropna(subset="test")
    best = best[(best["n_params"].fillna(0) > 0) & (best["flops_forward"].fillna(0) > 0)]
    for _, rows in best.groupby(["source", "shots"], sort=False):
        for name, column in {"n_params": "n_params", "flops": "flops_forward"}.items():
            front = pareto_front(rows.assign(x=rows[column].astype(float), y=rows["test"]))
            yield from ((index, name) for index in front.index)


def _curves(report: Report) -> list[dict[str, Any]]:
    """Return the epochs of each head's selected cells at its selected layer."""
    history = report.history
    if history.empty:
        return []
    best = best_layers(report.summary)[KEY]
    curves = []
    for (cell, _), rows in history.merge(best, on=KEY).groupby(["cell", "run"], sort=False):
        rows, first = rows.sort_values("epoch"), rows.iloc[0]
        split = "val" if first["protocol"] == "select" else "test"
        figures = rows[f"{split}_{first['figure']}"]
        curves.append(
            {
                **{name: first[name] for name in KEY},
                "seed": int(first["seed"]),
                "cell": cell,
                "split": {"val": "held-out", "test": "test"}[split],
                "best_epoch": _number(first["best_epoch"]),
                "epoch": _numbers(rows["epoch"]),
                "loss": _numbers(rows["train_loss"]),
                "figure": _numbers(100 * figures),
            }
        )
    return curves


def _confused(report: Report, source: str) -> Iterator[dict[str, Any]]:
    """Yield the classes that the selected head of a source mixes up most often, by the number of test images."""
    found = report.confusion(source)
    if found is None:
        return
    wrong = found.counts * (1 - np.eye(len(found.classes)))
    of_class = np.bincount(report.images[source].labels, minlength=len(found.classes))
    for place in np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSED]:
        label, predicted = (int(axis) for axis in np.unravel_index(place, wrong.shape))
        if wrong[label, predicted] > 0:
            yield {
                "source": source,
                "head": found.head,
                "layer": found.layer,
                "label": printable(found.classes[label]),
                "predicted": printable(found.classes[predicted]),
                "images": round(float(wrong[label, predicted]), 2),
                "of": int(of_class[label]),
            }


def _numbers(values: pd.Series) -> list[Any]:
    return [None if pd.isna(value) else value for value in values.astype(object).tolist()]


def _number(value: Any) -> Any:
    return None if pd.isna(value) else value.item() if isinstance(value, np.generic) else value
