"""A small store for plans, and the plan of a fit of it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tokenprobe.probe import FitConfig
from tokenprobe.probe.planning.machine import make_machine
from tokenprobe.probe.planning.make_plan import make_plan
from tokenprobe.probe.planning.plan import Plan
from tokenprobe.store import Store

from ..kit import rewrite_root

MakeStore = Callable[..., Store]
N_ROWS = {"train": 60, "test": 21}


def write_made(
    write_store: Callable[..., Store],
    path: Path,
    splits: Sequence[str] = ("train", "test"),
    kinds: Sequence[str] = ("patch", "prefix", "mean"),
    embedding: bool = False,
) -> Store:
    rng = np.random.default_rng(0)
    labels = {split: np.arange(N_ROWS.get(split, 12)) % 3 for split in splits}
    tokens = {}
    for split, y in labels.items():
        patch = rng.normal(size=(len(y), 4, 8)).astype(np.float16)
        arrays = {"patch": patch, "prefix": patch[:, :1], "mean": patch.astype(np.float32).mean(1)}
        tokens[split] = {layer: {kind: arrays[kind] for kind in kinds} for layer in (0, 2)}
        if embedding:
            tokens[split][2]["embedding"] = rng.normal(size=(len(y), 3)).astype(np.float32)
    return write_store(path, tokens, labels, grid=(2, 2), block_rows=8)


def plan_for(store: Store, **changes: Any) -> Plan:
    config = FitConfig(**{"out": "run", "heads": ["linear"], "device": "cpu"} | changes)
    return make_plan(store, config, make_machine(config).precision)


def rewrite(store: Store, **changes: Any) -> None:
    """Change what a store declares."""
    rewrite_root(store, replace(store.manifest, **changes))
