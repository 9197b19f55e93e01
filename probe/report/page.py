"""The report of a run as text: short on a terminal, complete in `summary.md`."""

from collections.abc import Iterator

import pandas as pd
from rich.console import Console

from .summary import (
    FIGURES,
    head_lines,
    optimism_line,
    shots_order,
    status_lines,
    summarise,
    with_most_data,
)
from .tables import layer_table, markdown_table, shots_table, terminal_tables

PROTOCOL_NOTES = {
    "select": "learning rate, weight decay and epoch are selected on held-out training images",
    "paper": "best epoch on the test split itself, as published tables report; optimistic by construction",
}


def print_summary(cells: pd.DataFrame, console: Console) -> None:
    """Print two tables per source, and remarks: shots at the selected layers, and layers for the most data.

    Args:
        cells: from `tidy`.
        console: its width limits the tables.
    """
    summary = summarise(cells)
    for source, of_source in summary.groupby("source", sort=False):
        if summary["source"].nunique() > 1:
            _say(console, f"\n{source}")
        figure = f"test {FIGURES[of_source['figure'].iloc[0]]} in %"
        if of_source["shots"].nunique() > 1:
            _print_tables(console, [shots_table(of_source)], f"{figure} (@ the layer that the protocol selects)")
        most = with_most_data(of_source)
        tables = [layer_table(most, spread=spread, mark=True) for spread in (True, False)]
        data = "" if most["shots"].iloc[0] == "full" else f", {shots_words(most['shots'].iloc[0])}"
        _print_tables(console, tables, f"{figure}{data} (* the layer that the protocol selects)")
        _say(console, *head_lines(most), *_optimism(cells, most))
    _say(console, *status_lines(cells))


def summary_page(cells: pd.DataFrame) -> str:
    """Return `summary.md`: all tables, and one line per head, for each source and number of shots.

    Args:
        cells: from `tidy`.
    """
    summary = summarise(cells)
    sources = list(summary["source"].unique())
    lines = [f"# {sources[0]}" if len(sources) == 1 else f"# {len(sources)} stores", "", *_notes(summary)]
    for source in sources:
        if len(sources) > 1:
            lines += ["", f"## {source}"]
        lines += _source_section(cells, summary[summary["source"] == source])
    if remarks := status_lines(cells):
        lines += ["", *(f"* {line}" for line in remarks)]
    return "\n".join(lines) + "\n"


def shots_words(shots: str) -> str:
    """Return a number of shots in words."""
    if shots == "full":
        return "all training images"
    if "." in shots:
        return f"{100 * float(shots):g} % of the training images"
    return f"{shots} image{'s' * (shots != '1')} per class"


def _print_tables(console: Console, choices: list[pd.DataFrame], title: str) -> None:
    """Print the first table that fits in one piece, or else the last table in pieces."""
    for table in choices:
        pieces = terminal_tables(table, console)
        if len(pieces) == 1:
            break
    _say(console, title)  # printed apart: it may be wider than the tables
    console.print(*pieces, sep="\n")


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _notes(summary: pd.DataFrame) -> Iterator[str]:
    figures = " and ".join(f"test {FIGURES[name]}" for name in summary["figure"].unique())
    protocols = "; ".join(PROTOCOL_NOTES[name] for name in summary["protocol"].unique())
    yield f"{figures[0].upper()}{figures[1:]} in %: {protocols}."
    if summary["n_seeds"].max() > 1:
        least, most = summary["n_seeds"][summary["n_seeds"] > 0].agg(["min", "max"])
        n_seeds = f"{least}" if least == most else f"{least} to {most}"
        differ = "initialisation" + ", and below all training images in the subset too" * (
            set(summary["shots"]) != {"full"}
        )
        yield f"± is the standard deviation over {n_seeds} seeds, which differ in {differ}."


def _source_section(cells: pd.DataFrame, summary: pd.DataFrame) -> Iterator[str]:
    levels = sorted(summary["shots"].unique(), key=shots_order)
    if len(levels) > 1:
        yield from ["", "At the layer after @, selected for each head and number of shots:", ""]
        yield from markdown_table(shots_table(summary))
    for shots in levels:
        at_level = summary[summary["shots"] == shots]
        if levels != ["full"]:
            yield from ["", f"### {shots_words(shots)[0].upper()}{shots_words(shots)[1:]}"]
        yield from ["", *markdown_table(layer_table(at_level)), ""]
        yield from (f"* {line}" for line in [*head_lines(at_level), *_optimism(cells, at_level)])


def _optimism(cells: pd.DataFrame, summary: pd.DataFrame) -> list[str]:
    line = optimism_line(cells, summary)
    return [line] if line else []
