"""A run folder: what was asked, one row a cell, one row a cell and epoch, and the heads.

Written anew after every layer, each file in one step, so that an interrupted run keeps what it finished.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import InputError, MissingError, unknown_name
from ..store.durable import write_durably
from ..store.lock import StoreLock
from .config import FILE_KEYS, MADE_FROM
from .group import Group
from .heads import Head, build_pooling
from .heads.flops import Flops, count_flops
from .plan import Plan
from .select import EpochTracker, mark_selected

COLUMNS = [
    "cell", "store", "model", "dataset", "layer", "head", "head_config", "tokens", "n_params", "optimizer", "lr",
    "weight_decay", "batch_size", "epochs", "shots", "seed", "protocol", "val_top1", "test_top1", "test_top5",
    "last_test_top1", "peak_test_top1", "best_epoch", "selected", "train_seconds", "flops_forward",
    "flops_train",
]  # fmt: skip
ABOUT = "tokenprobe"
"""Key of a head file's metadata."""
HEAD_COLUMNS = ["model", "dataset", "layer", "head", "head_config", "tokens", "optimizer", "shots"]


class Run:
    """One run folder.

    Attributes:
        path: the folder.
        results: one row a cell, the columns of `COLUMNS`; accuracies are fractions, operations are per image.
        history: one row a cell and epoch.
    """

    def __init__(self, path: Path) -> None:
        """Open a folder, with what is there already."""
        self.path = path
        self.results = _read(path / "results.parquet")
        self.history = _read(path / "history.parquet")

    def has(self, cell: str) -> bool:
        """Whether a cell is finished."""
        return not self.results.empty and bool((self.results["cell"] == cell).any())

    def claim(self, plan: Plan) -> None:
        """Write `config.yaml`, or check that the folder was made with the same shared settings and data.

        Raises:
            InputError: it was made with others; names them.
        """
        path = self.path / "config.yaml"
        shared = yaml.safe_load(yaml.safe_dump(plan.shared_settings()))
        if not self.results.empty:
            made = yaml.safe_load(path.read_text()).get(MADE_FROM, {}).get("shared", {}) if path.exists() else {}
            differing = [key for key in sorted(made.keys() | shared.keys()) if made.get(key) != shared.get(key)]
            if differing:
                listed = "; ".join(f"{key}: there {made.get(key)!r}, asked {shared.get(key)!r}" for key in differing)
                raise InputError(f"run {str(self.path)!r} was made with other settings ({listed}); give another --out")
        settings = {FILE_KEYS.get(key, key): value for key, value in plan.settings().items()}
        about = settings | {MADE_FROM: {"stores": [str(plan.store.path)], "shared": shared}}
        write_durably(path, yaml.safe_dump(about, sort_keys=False).encode())

    def add(self, rows: Iterable[Mapping[str, Any]], history: Iterable[Mapping[str, Any]]) -> None:
        """Add finished cells, mark the selected ones, and write the tables."""
        added = pd.DataFrame(rows)
        results = pd.concat([self.results, added], ignore_index=True)
        results["selected"] = mark_selected(results, HEAD_COLUMNS)
        self.results = results[COLUMNS]
        if not self.history.empty:  # killed between the two tables: the history may know these cells already
            self.history = self.history[~self.history["cell"].isin(added["cell"])]
        self.history = pd.concat([self.history, pd.DataFrame(history)], ignore_index=True)
        write_durably(self.path / "history.parquet", self.history.to_parquet(index=False))
        write_durably(self.path / "results.csv", self.results.to_csv(index=False).encode())
        write_durably(self.path / "results.parquet", self.results.to_parquet(index=False))

    def save_head(self, cell: str, state: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Write a head's weights, with all that is needed to build it again."""
        folder = self.path / "heads"
        folder.mkdir(exist_ok=True)
        about = {ABOUT: json.dumps(dict(metadata))}  # one key: safetensors writes several in no fixed order
        write_durably(folder / f"{cell}.safetensors", save(dict(state), metadata=about))


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


def load_head(run: str | Path, cell: str) -> Head:
    """Load a trained head.

    Args:
        run: a run folder.
        cell: name of the cell, from the results' column `cell`.

    Returns:
        A module in evaluation mode: tokens (B, N, dim), the arrays of the results' column `tokens` joined along
        the token axis, to logits (B, classes).

    Raises:
        MissingError: no such run.
        InputError: no such cell.
    """
    folder = Path(run) / "heads"
    if not folder.is_dir():
        raise MissingError(f"no trained heads at {str(folder)!r}; make a run with probe fit")
    path = folder / f"{cell}.safetensors"
    if not path.exists():
        raise unknown_name(f"cell of {str(run)!r}", cell, sorted(file.stem for file in folder.glob("*.safetensors")))
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()[ABOUT])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    pooling = build_pooling(about["head"], dim=about["dim"], grid=tuple(about["grid"]), **about["settings"])
    head = Head(pooling, about["n_classes"])
    head.load_state_dict({name: value[None] for name, value in state.items()})
    return head.eval()


def save_heads(run: Run, plan: Plan, group: Group) -> None:
    """Write the heads of a group, each as it was after its best epoch."""
    manifest, shape = plan.store.manifest, plan.store.manifest.shape(group.cells[0].layer)
    for index, cell in enumerate(group.cells):
        metadata = {
            "head": cell.head.name,
            "settings": dict(cell.head.settings),
            "dim": shape.dim,
            "grid": shape.grid,
            "n_classes": group.head.weight.shape[1],
            "tokens": list(group.kinds),
            "layer": cell.layer,
            "model": manifest.recipe.model,
            "weights": manifest.recipe.weights,
        }
        run.save_head(cell.name, group.best_state(index), metadata)


def result_rows(plan: Plan, group: Group, trackers: Sequence[EpochTracker]) -> list[dict[str, Any]]:
    """Return the results of a group, one row a cell; `selected` is decided over the whole run."""
    manifest, flops = plan.store.manifest, _flops(plan, group)
    return [
        {
            "cell": cell.name,
            "store": str(plan.store.path),
            "model": manifest.recipe.model,
            "dataset": manifest.dataset,
            "layer": str(cell.layer),
            "head": cell.head.name,
            "head_config": cell.head.config,
            "tokens": "+".join(group.kinds),
            "n_params": group.head.n_params(),
            "optimizer": cell.optimizer,
            "lr": cell.lr,
            "weight_decay": cell.weight_decay,
            "batch_size": plan.batch_size,
            "epochs": plan.config.epochs,
            "shots": cell.shots,
            "seed": cell.seed,
            "protocol": plan.config.protocol,
            **tracker.row(),
            "train_seconds": group.seconds / len(group.cells),
            "flops_forward": flops.forward,
            "flops_train": flops.train,
        }
        for cell, tracker in zip(group.cells, trackers, strict=True)
    ]


def _flops(plan: Plan, group: Group) -> Flops:
    """Count what one cell of a group costs for one image, pooling and classifier."""
    layer, spec = group.cells[0].layer, group.cells[0].head
    shape = plan.train_split.shape(layer)
    with torch.device("meta"):
        pooling = build_pooling(spec.name, dim=shape.dim, grid=shape.grid, **dict(spec.settings))
        head = Head(pooling, len(plan.train_split.classes))
    n_tokens = {"patch": shape.n_patches, "prefix": shape.n_prefix, "mean": 1}
    return count_flops(head, sum(n_tokens[kind] for kind in group.kinds), shape.dim)


def _read(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.exists() else pd.DataFrame()
