"""The tables of a run: one row of results per cell, and one row of history per cell and scored epoch.

pandas loads with the first row that is read or written: a first fit starts its steps without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from functools import cached_property
from os.path import lexists
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import NoSpaceError
from ...runtime.text import csv_cell
from ...store.durable import write_durably
from ...store.lock import StoreLock
from ..grid.cells import store_of
from .files import check_names
from .predictions import write_predicted
from .selection import mark_selected

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT, LEFT_OUT, TEST = "held-out", "left-out", "test"
"""Values of `selected_on`: held-out images, training images that are scored by fits without them, or the test split."""
TEXTS = [
    "cell", "store", "model", "dataset", "layer", "head", "head_config", "tokens", "optimizer", "shots", "protocol",
    "status", "name", "selected_on",
]  # fmt: skip
COUNTS = [
    "n_params", "batch_size", "epochs", "seed", "best_epoch", "flops_forward", "flops_train", "val_unscored",
    "test_unscored", "n_val", "n_test",
]  # fmt: skip
COLUMNS = [
    "cell", "store", "model", "dataset", "layer", "head", "head_config", "tokens", "n_params", "optimizer", "lr",
    "weight_decay", "batch_size", "epochs", "shots", "seed", "protocol", "val_top1", "test_top1", "test_top5",
    "last_test_top1", "peak_test_top1", "best_epoch", "selected", "train_seconds", "train_cpu_seconds",
    "flops_forward", "flops_train", "test_mean_class", "val_map", "test_map", "last_test_map", "peak_test_map",
    "val_unscored", "test_unscored", "status", "name", "n_val", "n_test", "val_loss", "selected_on",
]  # fmt: skip
LATER = {"name": "", "n_val": None, "n_test": None, "val_loss": None, "selected_on": ""}
"""Columns that runs of earlier versions lack, with the value that they get."""
PREDICTED = "predicted"
"""Key of a row for the predicted class (n,) of each test image. It is no column: each cell has a file."""
RESULTS_TYPES = {
    name: "str" if name in TEXTS else "Int64" if name in COUNTS else "bool" if name == "selected" else "float64"
    for name in COLUMNS
}
HEAD_COLUMNS = ["in_run", "layer", "head", "head_config", "tokens", "shots"]
"""Columns within which optimizers and rates are swept. "in_run" is the store's name in the run: a store may move."""
RESULTS, HISTORY = "results.parquet", "history.parquet"
HISTORY_TYPES = {
    "cell": "str", "epoch": "int64", "train_loss": "float64", "val_top1": "float64", "test_top1": "float64",
    "val_map": "float64", "test_map": "float64",
}  # fmt: skip


class Run:
    """One run folder.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        """Open a run folder and read its results, if it has any.

        Raises:
            RunError: the results are damaged, or another version wrote them.
        """
        self.path = path
        if lexists(path / RESULTS):
            _ = self.results

    @cached_property
    def results(self) -> pd.DataFrame:
        """One row per cell, with the columns `COLUMNS`. Accuracies are fractions, operations are per image."""
        from .tables import read_table

        return read_table(self.path / RESULTS, RESULTS_TYPES, LATER)

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row per cell and scored epoch, read at first use: most callers do not need it.

        Raises:
            RunError: the history is damaged, or another version wrote it.
        """
        from .tables import read_table

        return read_table(self.path / HISTORY, HISTORY_TYPES)

    @property
    def finished(self) -> frozenset[str]:
        """Names of the cells that have results."""
        return frozenset(self.results.get("cell", [])) if "results" in vars(self) else frozenset()

    def rows(self) -> list[dict[str, Any]]:
        """Return the results as one dict per cell, with None for missing values."""
        table = self.results.astype(object)
        rows: list[dict[str, Any]] = table.where(table.notna(), None).to_dict("records")
        return rows

    def add(self, rows: Iterable[Mapping[str, Any]], history: Iterable[Mapping[str, Any]]) -> None:
        """Add finished cells, mark the selected ones, and write the tables and what the cells predict.

        What unselected cells predict is kept too: a later fit with other seeds or rates may select them.

        Args:
            rows: the columns of each cell, and `PREDICTED` if it is known.
            history: the columns of each cell and scored epoch.
        """
        import pandas as pd

        from .tables import table_bytes

        rows = list(rows)
        added = pd.DataFrame([{name: row.get(name) for name in COLUMNS} for row in rows])
        results = pd.concat([self.results, _typed(added)], ignore_index=True)
        results["selected"] = mark_selected(results.assign(in_run=results["cell"].map(store_of)), HEAD_COLUMNS)
        self.results = results[COLUMNS]
        for row in rows:
            if PREDICTED in row and row.get("test_top1") is not None:  # not if it diverged at once
                write_predicted(self.path, row["cell"], row[PREDICTED])
        if not self.history.empty:  # a fit killed between the two writes leaves history without results
            self.history = self.history[~self.history["cell"].isin(added["cell"])]
        self.history = pd.concat([self.history, _history_table(history)], ignore_index=True)
        write_durably(self.path / HISTORY, table_bytes(self.history))
        self._write_results()

    def rename(self, names: Mapping[str, str]) -> None:
        """Write the names that people chose for stores, if they differ from those in the results.

        Args:
            names: by the store's name in the run.
        """
        if self.has_names(names):
            return
        in_run = self.results["cell"].map(store_of)
        self.results = self.results.assign(name=in_run.map(names).fillna(self.results["name"]).astype("str"))
        self._write_results()

    def has_names(self, names: Mapping[str, str]) -> bool:
        """Whether the results name the stores as in `names`, which is as for `rename`."""
        if not self.finished:
            return True
        asked = self.results["cell"].map(store_of).map(names)
        return bool((asked.isna() | (asked == self.results["name"])).all())

    def _write_results(self) -> None:
        from .tables import table_bytes

        write_durably(self.path / "results.csv", _csv_bytes(self.results))
        write_durably(self.path / RESULTS, table_bytes(self.results))


@contextmanager
def open_run(path: Path) -> Iterator[Run]:
    """Open a run folder for one fit at a time, and create it if needed.

    Raises:
        LockedError: another process writes to it.
        NoSpaceError: the disk is full.
        RunError: a file of the run cannot be written, or its tables are damaged or another version wrote them.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        check_names(path)
        with StoreLock(path):
            run = Run(path)
            if lexists(path / HISTORY):
                _ = run.history  # finds a damaged history now, not after hours of training
            yield run
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT):
            raise
        raise NoSpaceError(
            f"the disk of {str(path)!r} is full (writing {error.filename!r}); finished cells are safe: free some "
            "space, then run the same command again"
        ) from error


def _csv_bytes(results: pd.DataFrame) -> bytes:
    cells = {name: results[name].map(csv_cell, na_action="ignore") for name in TEXTS}
    return str(results.assign(**cells).to_csv(index=False)).encode()


def _typed(results: pd.DataFrame) -> pd.DataFrame:
    """Give every column its type, even if values are missing."""
    return results.astype({name: kind for name, kind in RESULTS_TYPES.items() if name != "selected"})


def _history_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame([{name: row.get(name) for name in HISTORY_TYPES} for row in rows], columns=list(HISTORY_TYPES))
    return table.astype(HISTORY_TYPES)
