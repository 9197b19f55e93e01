"""Captions of tables: each defines all that its table prints."""

from collections.abc import Iterator

import pandas as pd

from ...runtime.text import in_words
from .choices import choice_lines
from .summary import FIGURES, shots_words

MARKED = "the best, and each figure whose difference from it may be chance"


def spread_words(rows: pd.DataFrame) -> str | None:
    """Return the meaning of ± in words, or None if no row shows one.

    Args:
        rows: those that a table shows, from `summarise`.
    """
    shown = rows[rows["test_std"].notna()]
    if shown.empty:
        return None
    least, most = shown["n_seeds"].agg(["min", "max"])
    n_seeds = f"{least}" if least == most else f"{least} to {most}"
    subsets = ", and below all training images in the subset too" * (set(shown["shots"]) != {"full"})
    return f"± is the standard deviation over {n_seeds} seeds, which differ in initialisation{subsets}"


def images_words(rows: pd.DataFrame) -> str:
    """Return the number of test images with a comma before it, or nothing if it is not known."""
    numbers = sorted({f"{number:,}" for number in rows["n_test"].dropna()})
    return f", {' or '.join(numbers)} test images" if numbers else ""


def figure_caption(rows: pd.DataFrame, cells: pd.DataFrame, *, of: str, at: bool = False) -> str:
    """Return the caption of a table of figures.

    Args:
        rows: those that the table shows, from `summarise` or `find_leaders`.
        cells: those that the rows were selected among, from `tidy`.
        of: what the figures are of, such as "on imagenet".
        at: whether the table names selected layers after @.
    """
    shots = rows["shots"].unique()
    data = f", {shots_words(shots[0])}" if len(shots) == 1 else ""
    title = f"Test {FIGURES[rows['figure'].iloc[0]]} {of} in %{data}{images_words(rows)}"
    return ". ".join([title, *_definitions(rows, cells, at=at)]) + "."


def cost_caption(rows: pd.DataFrame, cells: pd.DataFrame, *, of: str) -> str:
    """Return the caption of a table of costs and figures; arguments as for `figure_caption`."""
    figure = f"test {FIGURES[rows['figure'].iloc[0]]} in %, {shots_words(rows['shots'].iloc[0])}{images_words(rows)}"
    title = f"Cost {of} at the selected layer, beside {figure}"
    return ". ".join([title, *_definitions(rows.assign(leads=False), cells, at=False)]) + "."


def _definitions(rows: pd.DataFrame, cells: pd.DataFrame, *, at: bool) -> Iterator[str]:
    chosen = choice_lines(cells)
    protocol = f"Protocol {in_words(list(rows['protocol'].unique()))}"
    yield from [f"{protocol}: {chosen[0]}"] if len(chosen) == 1 else [protocol, *map(_capital, chosen)]
    if at:
        yield "@ is the selected layer"
    spread = spread_words(rows)
    if spread is not None:
        yield spread
    if "leads" in rows and rows["leads"].any():
        yield f"Bold: {MARKED}"


def _capital(line: str) -> str:
    return f"{line[0].upper()}{line[1:]}"
