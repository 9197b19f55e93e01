"""The contents of a report as tables of text: for a terminal, in Markdown and in LaTeX."""

import sys
from collections.abc import Iterable

import numpy as np
import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from .summary import best_layers, layer_order, percent, shots_order

LEADS = "*"
"""Mark of the best figure, and of each that may differ from it by chance."""
LONGEST_NAME = 20
"""Most characters of a head's name on one line of a terminal table."""


def leader_table(leaders: pd.DataFrame) -> pd.DataFrame:
    """Return the figure of each backbone and head in percent as text with the selected layer, one row per backbone.

    The best figure, and each that may differ from it by chance, begins with `LEADS`.

    Args:
        leaders: the rows of one data set, figure and number of shots.
    """
    texts = pd.Series(_texts(leaders), index=leaders.index)
    texts += (" @" + leaders["layer"]).where(leaders["test"].notna(), "")
    texts = texts.where(~leaders["leads"], LEADS + texts)
    return _pivot(leaders, texts, "backbone", list(leaders["backbone"].unique()))


def cost_table(leaders: pd.DataFrame, *, seconds: bool = True) -> pd.DataFrame:
    """Return what each backbone and head costs at its selected layer, as text, one row per head.

    Args:
        leaders: the rows of one data set, figure and number of shots.
        seconds: with seconds of training, which differ between two runs of the same command.
    """
    columns = {"n_params": "parameters", "flops_forward": "FLOP per image", "flops_train": "FLOP to train on an image"}
    rows = leaders.dropna(subset="test")
    several = rows["source"].nunique() > 1
    table = pd.DataFrame({"head": rows["head"], **({"backbone": rows["backbone"]} if several else {})})
    table["layer"], table["test"] = rows["layer"], _texts(rows)
    for column, words in columns.items():
        table[words] = ["" if pd.isna(value) else f"{value:,.0f}" for value in rows[column]]
    if not seconds:
        return table.set_index("head")
    table["train seconds, one cell"] = [f"{value:.3g}" for value in rows["train_seconds"]]
    table["all cells of the layer"] = [f"{value:.3g}" for value in rows["sweep_seconds"]]
    return table.set_index("head")


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


def latex_table(table: pd.DataFrame) -> list[str]:
    """Return the lines of a table in LaTeX, for the package booktabs."""
    header = [table.index.name, *table.columns]
    rows = [[name, *row] for name, row in zip(table.index, table.to_numpy(), strict=True)]
    return [
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        _latex_row(header),
        r"\midrule",
        *map(_latex_row, rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _markdown_row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(_bold(str(cell).replace("|", r"\|"), "**", "**") for cell in cells) + " |"


def _latex_row(cells: Iterable[object]) -> str:
    return " & ".join(_bold(latex_text(str(cell)), r"\textbf{", "}") for cell in cells) + r" \\"


def latex_text(text: str) -> str:
    """Escape a text for LaTeX."""
    return "".join(LATEX.get(character, character) for character in text)


def _bold(text: str, begin: str, end: str) -> str:
    """Replace the mark `LEADS` by bold print of the figure, which ends before the layer."""
    if not text.startswith(LEADS):
        return text
    figure, at, layer = text.removeprefix(LEADS).partition(" @")
    return f"{begin}{figure}{end}{at}{layer}"


LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
    "<": r"$<$",
    ">": r"$>$",
}


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
