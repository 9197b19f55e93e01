"""The tables of a run: one row of results per cell, and one row of history per cell and scored epoch."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import InputError
from ...store.durable import write_durably
from ...store.lock import StoreLock
from ..grid.cells import store_of
from .selection import mark_selected

TEXTS = [
    "cell", "store", "model", "dataset", "layer", "head", "head_config", "tokens", "optimizer", "shots", "protocol",
    "status",
]  # fmt: skip
COUNTS = [
    "n_params", "batch_size", "epochs", "seed", "best_epoch", "flops_forward", "flops_train", "val_unscored",
    "test_unscored",
]  # fmt: skip
COLUMNS = [
    "cell", "store", "model", "dataset", "layer", "head", "head_config", "tokens", "n_params", "optimizer", "lr",
    "weight_decay", "batch_size", "epochs", "shots", "seed", "protocol", "val_top1", "test_top1", "test_top5",
    "last_test_top1", "peak_test_top1", "best_epoch", "selected", "train_seconds", "train_cpu_seconds",
    "flops_forward", "flops_train", "test_mean_class", "val_map", "test_map", "last_test_map", "peak_test_map",
    "val_unscored", "test_unscored", "status",
]  # fmt: skip
HEAD_COLUMNS = ["name", "layer", "head", "head_config", "tokens", "optimizer", "shots"]
"""Within which rates are swept; "name" is the store's in the run, since a store may be moved."""


class Run:
    """One run folder.

    Attributes:
        path: the folder.
        results: one row per cell, the columns of `COLUMNS`; accuracies are fractions, operations are per image.
        history: one row per cell and scored epoch.
    """

    def __init__(self, path: Path) -> None:
        """Open a folder, with what is there already."""
        self.path = path
        self.results = _read(path / "results.parquet")
        self.history = _read(path / "history.parquet")

    @property
    def finished(self) -> frozenset[str]:
        """Names of the cells that have results."""
        return frozenset(self.results.get("cell", []))

    def add(self, rows: Iterable[Mapping[str, Any]], history: Iterable[Mapping[str, Any]]) -> None:
        """Add finished cells, mark the selected ones, and write the tables."""
        added = pd.DataFrame([{name: row.get(name) for name in COLUMNS} for row in rows])
        results = pd.concat([self.results, _typed(added)], ignore_index=True)
        results["selected"] = mark_selected(results.assign(name=results["cell"].map(store_of)), HEAD_COLUMNS)
        self.results = results[COLUMNS]
        if not self.history.empty:  # killed between the two tables: the history may know these cells already
            self.history = self.history[~self.history["cell"].isin(added["cell"])]
        self.history = pd.concat([self.history, _history_table(history)], ignore_index=True)
        write_durably(self.path / "history.parquet", self.history.to_parquet(index=False))
        write_durably(self.path / "results.csv", self.results.to_csv(index=False).encode())
        write_durably(self.path / "results.parquet", self.results.to_parquet(index=False))


@contextmanager
def open_run(path: Path) -> Iterator[Run]:
    """Open a run folder for one fit at a time, making it if need be.

    Raises:
        InputError: there is a file in the way.
        LockedError: another process is writing to it.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{str(path)!r} is a file; give a folder for the run with --out")
    path.mkdir(parents=True, exist_ok=True)
    with StoreLock(path):
        yield Run(path)


def _typed(results: pd.DataFrame) -> pd.DataFrame:
    """Give every column its type, whatever is missing in it."""
    others = [name for name in COLUMNS if name not in (*TEXTS, *COUNTS, "selected")]
    types: dict[str, Any] = (
        dict.fromkeys(TEXTS, "str") | dict.fromkeys(COUNTS, "Int64") | dict.fromkeys(others, "float64")
    )
    return results.astype(types)


def _history_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    names = {"cell": "str", "epoch": "int64"} | dict.fromkeys(
        ["train_loss", "val_top1", "test_top1", "val_map", "test_map"], "float64"
    )
    table = pd.DataFrame([{name: row.get(name) for name in names} for row in rows], columns=list(names))
    return table.astype(names)


def _read(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.exists() else pd.DataFrame()
