"""The best cell of a run: the one that `--cell best` names."""

from collections.abc import Container
from typing import Any

import pandas as pd

from ...errors import InputError, MissingError
from ...runtime.text import printable
from ..run.results import Run
from ..run.saved import FOLDER, saved_cells
from .choices import best_words
from .leaders import KEY
from .summary import best_row, summarise, tidy

BEST = "best"


def best_cell(run: Run, among: Container[str], kind: str) -> str:
    """Return the selected cell of a run that does best, as its summary selects: not on test images under "select".

    It is the cell of the best head at its selected layer, with the most training data. Of several seeds, it is the
    first.

    Args:
        run: the run.
        among: cells that may be chosen, such as those with weights. A rate is selected among all.
        kind: of these cells, for the message.

    Raises:
        MissingError: the run has no results.
        InputError: no selected cell is among them.
    """
    if run.results.empty:
        raise MissingError(
            f"run {str(run.path)!r} has no results yet; wait for its probe fit, or name one of its heads with --cell"
        )
    row = find_best(tidy(run.results), among)
    if row is None:
        raise InputError(f"run {str(run.path)!r} has no selected {kind}; name a cell of its results.csv with --cell")
    return str(row["cell"])


def find_best(cells: pd.DataFrame, among: Container[str]) -> "pd.Series[Any] | None":
    """Return the row of the cell that `best_cell` names, or None if no selected cell is among those.

    Args:
        cells: from `tidy`, of one run.
        among: as for `best_cell`.
    """
    of_kind = cells[cells["selected"] & cells["cell"].map(lambda cell: cell in among)]
    row = None if of_kind.empty else best_row(summarise(of_kind))
    if row is None:
        return None
    chosen = of_kind[(of_kind[KEY] == row[KEY]).all(axis=1)]
    return chosen.loc[chosen["seed"].idxmin()]


def best_line(run: Run, cells: pd.DataFrame) -> str | None:
    """Return the line of a run's summary with the cell that `--cell best` names, or None if no head is saved.

    The answer above it orders heads by the test split, which a choice of one must not look at.

    Args:
        run: the run.
        cells: its cells, from `tidy`.
    """
    known = saved_cells(run.path) if (run.path / FOLDER).is_dir() else []
    row = find_best(cells, known)
    if row is None:
        return None
    of_kind = cells[cells["selected"] & cells["cell"].isin(known)]
    return f"  best on {best_words(of_kind)} (--cell best): {printable(row['cell'])}"
