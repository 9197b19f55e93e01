"""What a run shows: a summary table and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..results import Run

CONTENTS = {
    "results.csv, .parquet": "one row a cell",
    "history.parquet": "one row a cell and epoch",
    "summary.md": "this table",
    "figures/layer_curve.png": "the same as a picture, also as .svg",
    "heads/": "trained heads, for tokenprobe.probe.load_head",
    "config.yaml": "the resolved settings",
}


def write_report(run: Run) -> None:
    """Write `summary.md` and `figures/` into the run's folder, from its results."""
    from .figures import draw_layer_curve
    from .summary import summarise, write_summary

    summary = summarise(run.results)
    write_summary(summary, run)
    draw_layer_curve(summary, run.path / "figures")


def print_run(run: Run) -> None:
    """Print the summary table, each head's selected layer, and where the files are, on stdout."""
    from rich.console import Console

    from .summary import best_lines, rich_table, summarise

    summary = summarise(run.results)
    Console().print(rich_table(summary))
    print("\n".join(best_lines(summary)))
    print(f"\n{run.path}/")
    for name, what in CONTENTS.items():
        print(f"  {name:<24} {what}")
