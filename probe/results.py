"""The run folder: resolved settings, one row of results a cell, and its history. Heads are in `saved.py`."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ..errors import InputError
from ..store.durable import write_durably
from ..store.lock import StoreLock
from .config import FILE_KEYS, MADE_FROM
from .grid import default_warmup, store_of
from .plan import Plan
from .select import mark_selected

TEXTS = [
    "cell", "store", "model", "dataset", "layer", "head", "head_config", "tokens", "optimizer", "shots", "protocol",
    "status",
]  # fmt: skip
COUNTS = ["n_params", "batch_size", "epochs", "seed", "best_epoch", "flops_forward", "flops_train"]
COLUMNS = [
    "cell", "store", "model", "dataset", "layer", "head", "head_config", "tokens", "n_params", "optimizer", "lr",
    "weight_decay", "batch_size", "epochs", "shots", "seed", "protocol", "val_top1", "test_top1", "test_top5",
    "last_test_top1", "peak_test_top1", "best_epoch", "selected", "train_seconds", "flops_forward", "flops_train",
    "test_mean_class", "val_map", "test_map", "last_test_map", "peak_test_map", "status",
]  # fmt: skip
HEAD_COLUMNS = ["name", "layer", "head", "head_config", "tokens", "optimizer", "shots"]
"""Within which rates are swept; "name" is the store's in the run, since a store may be moved."""


class Run:
    """One run folder.

    Attributes:
        path: the folder.
        results: one row a cell, the columns of `COLUMNS`; accuracies are fractions, operations are per image.
        history: one row a cell and scored epoch.
    """

    def __init__(self, path: Path) -> None:
        """Open a folder, with what is there already."""
        self.path = path
        self.results = _read(path / "results.parquet")
        self.history = _read(path / "history.parquet")
        self._finished = set(self.results.get("cell", []))

    def has(self, cell: str) -> bool:
        """Whether a cell is finished."""
        return cell in self._finished

    def named(self, plans: Sequence[Plan]) -> list[Plan]:
        """Return the plans of stores, each with the name that its store has in this run.

        Raises:
            InputError: the folder was made with other settings, or a store was another one then, or two hold the same.
        """
        made = self._made_from()
        if made:
            self._check_settings(made["shared"], plans[0])
        stores = dict(made.get("stores", {}))
        named = [replace(plan, name=self._name_store(plan, stores)) for plan in plans]
        for index, plan in enumerate(named):
            twin = next((other for other in named[:index] if other.name == plan.name), None)
            if twin is not None:
                raise InputError(
                    f"{str(twin.data.store.path)!r} and {str(plan.data.store.path)!r} hold the same features of "
                    "the same images; give one of them"
                )
        return named

    def claim(self, plans: Sequence[Plan]) -> None:
        """Write `config.yaml` for named plans: their settings, and under `MADE_FROM` what else made the run's cells."""
        made = self._made_from()
        stores = made.get("stores", {}) | {
            plan.name: {"path": str(plan.data.store.path), "fingerprints": plan.data.fingerprints()} for plan in plans
        }
        command = {"stores": [plan.name for plan in plans]} | _as_flags(plans[0].grid_settings())
        commands = made.get("commands", [])
        sizes = {course.shots: course.batch_size for plan in plans for course in plan.courses}
        about = _as_flags(plans[0].settings) | {
            MADE_FROM: {
                "commands": commands if command in commands else [*commands, command],
                "stores": stores,
                "batch_sizes": sizes,
                "shared": plans[0].shared_settings(),
            }
        }
        write_durably(self.path / "config.yaml", yaml.safe_dump(about, sort_keys=False).encode())

    def add(self, rows: Iterable[Mapping[str, Any]], history: Iterable[Mapping[str, Any]]) -> None:
        """Add finished cells, mark the selected ones, and write the tables."""
        added = pd.DataFrame([{name: row.get(name) for name in COLUMNS} for row in rows])
        results = pd.concat([self.results, _typed(added)], ignore_index=True)
        results["selected"] = mark_selected(results.assign(name=results["cell"].map(store_of)), HEAD_COLUMNS)
        self.results = results[COLUMNS]
        self._finished = set(self.results["cell"])
        if not self.history.empty:  # killed between the two tables: the history may know these cells already
            self.history = self.history[~self.history["cell"].isin(added["cell"])]
        self.history = pd.concat([self.history, _history_table(history)], ignore_index=True)
        write_durably(self.path / "history.parquet", self.history.to_parquet(index=False))
        write_durably(self.path / "results.csv", self.results.to_csv(index=False).encode())
        write_durably(self.path / "results.parquet", self.results.to_parquet(index=False))

    def _made_from(self) -> dict[str, Any]:
        """Return what the finished cells were made with and from; nothing if there are none."""
        path = self.path / "config.yaml"
        found: dict[str, Any] = {}
        if path.exists() and not self.results.empty:
            found = yaml.safe_load(path.read_text()).get(MADE_FROM, {})
        return found

    def _check_settings(self, made: Mapping[str, Any], plan: Plan) -> None:
        asked = yaml.safe_load(yaml.safe_dump(plan.shared_settings()))
        derived = all(each["warmup_epochs"] == default_warmup(each["epochs"]) for each in (made, asked))
        differing = [
            key
            for key in sorted(made.keys() | asked.keys())
            if made.get(key) != asked.get(key) and not (derived and key == "warmup_epochs")  # that epochs decide
        ]
        if differing:
            listed = "; ".join(f"{key}: there {made.get(key)!r}, asked {asked.get(key)!r}" for key in differing)
            raise InputError(f"run {str(self.path)!r} was made with other settings ({listed}); give another --out")

    def _name_store(self, plan: Plan, stores: dict[str, dict[str, Any]]) -> str:
        """Return the name of a store in this run, and note it: the model's, and a hash where two would be alike."""
        path, fingerprints = str(plan.data.store.path), plan.data.fingerprints()
        for name, known in stores.items():
            if known["fingerprints"] == fingerprints:
                return name
            if known["path"] == path:
                differing = [key for key, value in fingerprints.items() if known["fingerprints"].get(key) != value]
                raise InputError(
                    f"run {str(self.path)!r} was made from other data under {path!r} ({', '.join(differing)} images, "
                    "backbone, transform or split differ); give another --out"
                )
        model = plan.data.store.manifest.recipe.model
        name = re.sub(r"[^\w.@+=-]", "_", model.partition(":")[2] or model)
        if name in stores:
            name += "~" + hashlib.sha256(json.dumps(fingerprints).encode()).hexdigest()[:6]
        stores[name] = {"path": path, "fingerprints": fingerprints}
        return name


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


def _as_flags(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under the names of their flags, as a copy: YAML would refer from one to the other."""
    return {FILE_KEYS.get(key, key): deepcopy(value) for key, value in settings.items()}


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
