"""The summary as tables of text: for a terminal, and in Markdown."""

import sys
from collections.abc import Iterable

import numpy as np
import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from .summary import best_layers, layer_order, percent, shots_order

LONGEST_NAME = 20
"""Most characters of a head's name on one line of a terminal table."""


def layer_table(summary: pd.DataFrame, *, spread: bool = True, mark: bool = False) -> pd.DataFrame:
    """Return the figure in percent as text, one row per layer and one column per head.

    Args:
        summary: the rows of one source and number of shots.
        spread: with the standard deviation over seeds.
        mark: with a star at each head's selected layer.
    """
    texts = pd.Series(_texts(summary, spread=spread), index=summary.index)
    if mark:
        best = summary.index.isin(best_layers(summary).index) & summary["test"].notna()
        texts += best.map({True: " *", False: "  "})
    return _pivot(summary, texts, "layer", sorted(set(summary["layer"]), key=layer_order))


def shots_table(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the figure of each head's selected layer in percent as text, one row per shots and one column per head.

    Args:
        summary: the rows of one source.
    """
    best = best_layers(summary)
    layers = (" @" + best["layer"]).where(best["test"].notna(), "")
    texts = pd.Series(_texts(best), index=best.index) + layers
    return _pivot(best, texts, "shots", sorted(set(best["shots"]), key=shots_order))


def terminal_tables(table: pd.DataFrame, console: Console) -> list[Table]:
    """Return a table for a terminal: with its longer side down, turned if that is too wide, or else in pieces by head.

    Args:
        table: texts; the index and the columns are named.
        console: its width limits the table.
    """
    unbounded = console.options.update(width=sys.maxsize)

    def fits(piece: Table) -> bool:
        return Measurement.get(console, unbounded, piece).maximum <= console.width

    tall = table if len(table.columns) <= len(table) else table.T
    for turned in (tall, tall.T):
        whole = _rich_table(turned)
        if fits(whole):
            return [whole]
    by_head = table.T if table.columns.name == "head" else table
    for n_pieces in range(1, len(by_head.columns) + 1):
        columns = np.array_split(np.arange(len(by_head.columns)), n_pieces)
        pieces = [_rich_table(by_head.iloc[:, part]) for part in columns]
        if all(map(fits, pieces)):
            break
    return pieces


def markdown_table(table: pd.DataFrame) -> list[str]:
    """Return the lines of a table in Markdown."""
    rows = [[name, *row] for name, row in zip(table.index, table.to_numpy(), strict=True)]
    header = [table.index.name, *table.columns]
    return [_markdown_row(header), "|--:|" + "--:|" * len(table.columns), *map(_markdown_row, rows)]


def _markdown_row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"


def _texts(summary: pd.DataFrame, *, spread: bool = True) -> list[str]:
    if not spread:
        return [percent(mean) for mean in summary["test"]]
    return [percent(mean, std) for mean, std in zip(summary["test"], summary["test_std"], strict=True)]


def _pivot(summary: pd.DataFrame, texts: pd.Series, rows: str, order: list[str]) -> pd.DataFrame:
    table = summary.assign(text=texts).pivot(index=rows, columns="head", values="text")
    return table.loc[order, list(summary["head"].unique())].fillna("")


def _rich_table(table: pd.DataFrame) -> Table:
    made = Table()
    made.add_column(table.index.name, justify="left" if table.index.name == "head" else "right", no_wrap=True)
    for name in table.columns:
        made.add_column(_folded(name), justify="right", overflow="fold")
    for name, row in table.iterrows():
        made.add_row(_folded(str(name)), *row)
    return made


def _folded(name: str) -> str:
    """Break a long head name after its punctuation."""
    return name if len(name) <= LONGEST_NAME else name.replace(":", ":\n", 1).replace(",", ",\n")
