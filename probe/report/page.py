"""The report as text: short on a terminal, complete in `summary.md`. The answer and the comparison come first."""

from collections.abc import Iterator

import pandas as pd
from rich.console import Console

from .captions import MARKED, images_words, spread_words
from .choices import choice_lines
from .contents import Report
from .leaders import TABLE
from .summary import (
    FIGURES,
    head_lines,
    optimism_line,
    shots_order,
    shots_words,
    status_lines,
    with_most_data,
)
from .tables import (
    LEADS,
    cost_table,
    layer_table,
    leader_table,
    markdown_table,
    shots_table,
    terminal_tables,
)


def print_leaders(report: Report, console: Console) -> None:
    """Print the answer, and the table of backbones and heads for the most data of each data set."""
    _say(console, *report.answers)
    for (dataset, figure, shots), rows in _most_data(report.leaders).groupby(TABLE, sort=False):
        if len(rows) > 1:
            marked = f"; {LEADS} {MARKED}" if rows["leads"].any() else ""
            of = f" on {dataset}" * (report.leaders["dataset"].nunique() > 1) + f", {shots_words(shots)}" * (
                shots != "full"
            )
            title = f"test {FIGURES[figure]} in %{of}{images_words(rows)} (@ the selected layer{marked})"
            _print_tables(console, [leader_table(rows)], title)


def print_sources(report: Report, console: Console) -> None:
    """Print two tables per source: shots at the selected layers, and layers for the most data; and a line per head."""
    for source, of_source in report.summary.groupby("source", sort=False):
        if len(report.sources) > 1:
            _say(console, f"\n{source}")
        figure = f"test {FIGURES[of_source['figure'].iloc[0]]} in %"
        if of_source["shots"].nunique() > 1:
            _print_tables(console, [shots_table(of_source)], f"{figure} (@ the layer that the protocol selects)")
        most = with_most_data(of_source)
        tables = [layer_table(most, spread=spread, mark=True) for spread in (True, False)]
        data = "" if most["shots"].iloc[0] == "full" else f", {shots_words(most['shots'].iloc[0])}"
        _print_tables(console, tables, f"{figure}{data} (* the layer that the protocol selects)")
        _say(console, *head_lines(most), *_optimism(report.cells, most))


def print_remarks(report: Report, console: Console) -> None:
    """Print the warnings, and lines about cells that diverged or did not converge."""
    _say(console, *(f"note: {line}" for line in report.warnings), *status_lines(report.cells))


def summary_page(report: Report) -> str:
    """Return `summary.md`: the answer, all tables, and one line per head, for each source and number of shots."""
    sources, summary = report.sources, report.summary
    lines = [f"# {sources[0]}" if len(sources) == 1 else f"# {len(sources)} backbones and data sets", ""]
    lines += [*_answer_lines(report), *_notes(report), *_leader_section(report)]
    if report.warnings:
        lines += ["", "Read with care:", "", *(f"* {line}" for line in report.warnings)]
    for source in sources:
        if len(sources) > 1:
            lines += ["", f"## {source}"]
        lines += _source_section(report.cells, summary[summary["source"] == source])
    if remarks := status_lines(report.cells):
        lines += ["", *(f"* {line}" for line in remarks)]
    return "\n".join([*lines, *_footnotes(report)]) + "\n"


def _answer_lines(report: Report) -> Iterator[str]:
    for line in report.answers:
        yield f"* {line.strip()}" if line.startswith(" ") else f"**{line}**\n"
    if report.answers:
        yield ""


def _leader_section(report: Report) -> Iterator[str]:
    """Yield the tables of backbones and heads, then of costs."""
    for (dataset, figure, shots), rows in report.leaders.groupby(TABLE, sort=False):
        if len(rows) < 2:
            continue
        yield from [
            "",
            f"Test {FIGURES[figure]} on {dataset}, {shots_words(shots)}{images_words(rows)}, @ selected layer",
        ]
        yield from [f"(bold: {MARKED}):" if rows["leads"].any() else "(no interval is known):", ""]
        yield from markdown_table(leader_table(rows))
    for (dataset, _, _), rows in _most_data(report.leaders).groupby(TABLE, sort=False):
        if rows["test"].notna().any():
            yield from [
                "",
                f"Cost on {dataset} (`tables/cost.csv` has seconds too):",
                "",
                *markdown_table(cost_table(rows, seconds=False)),
            ]


def _footnotes(report: Report) -> Iterator[str]:
    named = {head: spec for head, spec in report.specs.items() if head != spec}
    if named:
        yield from ["", "Heads: " + "; ".join(f"{head} is `{spec}`" for head, spec in named.items()) + "."]


def _most_data(leaders: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each data set with the most training data."""
    return leaders[leaders["shots"] == leaders.groupby("dataset")["shots"].transform("first")]


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


def _notes(report: Report) -> Iterator[str]:
    summary, chosen = report.summary, choice_lines(report.cells)
    figures = " and ".join(f"test {FIGURES[name]}" for name in summary["figure"].unique())
    figures = f"{figures[0].upper()}{figures[1:]} in %"
    yield from (
        [f"{figures}: {chosen[0]}."] if len(chosen) == 1 else [f"{figures}:", "", *(f"* {line}" for line in chosen), ""]
    )
    spread = spread_words(summary)
    if spread is not None:
        yield f"{spread}."


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
