"""The report of runs: tables of the selected cells, comparisons with intervals, and figures.

`contents.gather` knows everything that is shown; `page`, `tables`, `html` and `figures` show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..run.results import Run
    from .config import ReportConfig
    from .contents import Report

CONTENTS = {
    "results.csv, .parquet": "one row per cell",
    "history.parquet": "one row per cell and scored epoch",
    "summary.md": "the answer and all tables",
    "report.html": "all cells and figures, for a browser",
    "tables/": "the tables as .csv and .tex",
    "figures/": "pictures as .png; probe report adds .svg and .pdf",
    "predictions/": "the class of each test image, by each cell",
    "heads/": "trained heads, for probe predict",
    "config.yaml": "the resolved settings",
}
REPORT = {
    **{name: CONTENTS[name] for name in ("summary.md", "report.html", "tables/")},
    "figures/": "pictures as .png, .svg and .pdf",
}
"""What `probe report` writes."""


def write_report(run: Run) -> None:
    """Write `figures/`, `tables/`, `report.html` and then `summary.md` into the run's folder, from its results.

    Figures are PNG alone. SVG and PDF for a paper would take most of the time of a small fit.
    """
    from .contents import gather
    from .write import write_figures, write_text

    report = gather([run])
    write_figures(report, run.path, kinds=("png",))
    write_text(report, run.path)


def is_reported(run: Run) -> bool:
    """Whether the run's folder has a report of its current results."""
    from ..run.files import read_file
    from .contents import gather
    from .page import summary_page

    summary = read_file(run.path / "summary.md")
    drawn = all((run.path / name).exists() for name in ("figures/layer_curve.png", "report.html"))
    return drawn and summary is not None and summary == summary_page(gather([run])).encode()


def report(paths: Sequence[str | Path], config: ReportConfig) -> tuple[Report, Path]:
    """Write the report of one or more runs. See `tokenprobe.probe.report.write.make_report`."""
    from .write import make_report

    return make_report(paths, config)


def run_facts(run: Run) -> dict[str, Any]:
    """Return the report of one run as values for JSON: what `report_facts` gives, and the run's path."""
    from .contents import gather

    return {"run": str(run.path)} | report_facts(gather([run]))


def report_facts(report: Report) -> dict[str, Any]:
    """Return a report as values for JSON: lines of text, and one dict per source, head, shots and layer.

    `best` marks the layer that the protocol selects for a head. `leaders` compares these layers.
    """
    from .summary import best_layers, status_lines

    summary = report.summary.assign(best=report.summary.index.isin(best_layers(report.summary).index))
    tables = {
        name: table.drop(columns=["data", "look"]).rename(columns={"head": "head_name", "spec": "head"})
        for name, table in {"summary": summary, "leaders": report.leaders}.items()
    }
    rows = {name: table.astype(object).where(table.notna(), None).to_dict("records") for name, table in tables.items()}
    return {
        "cells": len(report.cells),
        "answers": [line.strip() for line in report.answers],
        **rows,
        "warnings": list(report.warnings),
        "remarks": status_lines(report.cells),
    }


def print_run(run: Run) -> None:
    """Print the answer, the tables, each head's selected layer, remarks, and the list of files on stdout."""
    from rich.console import Console

    from .contents import gather
    from .page import print_leaders, print_remarks, print_sources

    known, console = gather([run]), Console()
    print_leaders(known, console)
    print_sources(known, console)
    print_remarks(known, console)
    _print_files(run.path, CONTENTS)


def print_report(report: Report, folder: Path) -> None:
    """Print the answer, the comparison, remarks, and the list of the report's files on stdout."""
    from rich.console import Console

    from .page import print_leaders, print_remarks

    console = Console()
    print_leaders(report, console)
    print_remarks(report, console)
    _print_files(folder, REPORT)


def _print_files(folder: Path, contents: Mapping[str, str]) -> None:
    from ...runtime.text import printable

    print(f"\n{printable(str(folder))}/")
    for name, content in contents.items():
        print(f"  {name:<24} {content}")
