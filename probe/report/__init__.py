"""The report of a run: tables of the selected cells, and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..run.results import Run

CONTENTS = {
    "results.csv, .parquet": "one row per cell",
    "history.parquet": "one row per cell and scored epoch",
    "summary.md": "this table",
    "figures/layer_curve.png": "the same as a picture, also as .svg",
    "figures/shots_curve.png": "each head over images per class, also as .svg",
    "heads/": "trained heads, for probe predict",
    "config.yaml": "the resolved settings",
}


def write_report(run: Run) -> None:
    """Write `figures/` and then `summary.md` into the run's folder, from its results."""
    from ...store.durable import write_durably
    from .figures import draw_layer_curve, draw_shots_curve
    from .page import summary_page
    from .summary import summarise, tidy

    cells = tidy(run.results)
    summary = summarise(cells)
    draw_layer_curve(summary, run.path / "figures")
    if summary["shots"].nunique() > 1:
        draw_shots_curve(summary, run.path / "figures")
    write_durably(run.path / "summary.md", summary_page(cells).encode())


def is_reported(run: Run) -> bool:
    """Whether the run's folder has a report of its current results."""
    from ..run.files import read_file
    from .page import summary_page
    from .summary import tidy

    summary = read_file(run.path / "summary.md")
    drawn = (run.path / "figures" / "layer_curve.png").exists()
    return drawn and summary is not None and summary == summary_page(tidy(run.results)).encode()


def run_facts(run: Run) -> dict[str, Any]:
    """Return the summary as values for JSON: one dict per source, head, shots and layer, and remarks about cells.

    `best` marks the layer that the protocol selects for a head.
    """
    from .summary import best_layers, status_lines, summarise, tidy

    cells = tidy(run.results)
    summary = summarise(cells)
    summary = summary.assign(best=summary.index.isin(best_layers(summary).index))
    rows = summary.astype(object).where(summary.notna(), None).to_dict("records")
    return {"run": str(run.path), "cells": len(cells), "summary": rows, "remarks": status_lines(cells)}


def print_run(run: Run) -> None:
    """Print the summary table, each head's selected layer and the list of files on stdout."""
    from rich.console import Console

    from ...runtime.text import printable
    from .page import print_summary
    from .summary import tidy

    print_summary(tidy(run.results), Console())
    print(f"\n{printable(str(run.path))}/")
    for name, what in CONTENTS.items():
        if "shots" in name and run.results["shots"].nunique() < 2:
            continue
        print(f"  {name:<24} {what}")
