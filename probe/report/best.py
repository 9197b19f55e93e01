"""The best cell of a run: the one that `--cell best` names."""

from collections.abc import Container

from ...errors import InputError, MissingError
from ..run.results import Run
from .contents import KEY
from .summary import best_row, summarise, tidy

BEST = "best"


def best_cell(run: Run, among: Container[str], kind: str) -> str:
    """Return the selected cell of a run that does best, as its summary selects: on held-out images under "select".

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
    cells = tidy(run.results)
    of_kind = cells[cells["selected"] & cells["cell"].map(lambda cell: cell in among)]
    row = None if of_kind.empty else best_row(summarise(of_kind))
    if row is None:
        raise InputError(f"run {str(run.path)!r} has no selected {kind}; name a cell of its results.csv with --cell")
    chosen = of_kind[(of_kind[KEY] == row[KEY]).all(axis=1)]
    return str(chosen["cell"].loc[chosen["seed"].idxmin()])
