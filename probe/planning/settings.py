"""The settings of a plan as plain values: those that all cells of a run share, and those that differ between cells."""

import json
from dataclasses import asdict
from typing import Any

from ...runtime.text import utf8_text
from ..batches.subsets import is_fraction
from ..grid.regimes import default_warmup
from ..grid.unused import STEPS
from .plan import Plan

GRID = (
    "heads", "layers", "shots", "fraction", "optimizer", "lr", "weight_decay", "seeds", "train_split", "val_split",
    "test_split", "test_store",
)  # fmt: skip
"""Settings that may differ between the cells of a run. A later command may add other values. Fingerprints, not
settings, identify the data."""
OWN = (*GRID, "preset", "out", "device", "cache", "local_cache")
"""Settings that the cells of a run need not share: `GRID`; the name of a preset, whose settings count by themselves;
and settings that differ between machines."""

OF_STEPS = ("epochs", "batch_size", "warmup_epochs", "min_steps", *STEPS, "noise_prob", "amp")
"""Shared settings that only heads that are trained by steps read."""
OF_SOLVERS = ("select_on",)
"""Shared settings that only heads that are fitted at once read."""

NOT_KEPT = ("log", "dry_run", "engine", "shard", "address", "num_gpus")
"""Settings that change nothing in a run."""

Settings = dict[str, Any]


def resolved_settings(plan: Plan) -> Settings:
    """Return the whole resolved config, by field; `device` is as given."""
    resolved: Settings = {
        "heads": [head.label for head in plan.grid.heads],
        "layers": ",".join(layers.text for layers in plan.grid.layers),
        "lr": list(plan.grid.lrs),
        "shots": [shots for shots in plan.grid.shots if not is_fraction(shots)],
        "train_split": plan.data.train.name,
        "test_split": plan.data.test.name,
        "amp": "off" if plan.precision == "float32" else plan.precision,
    }
    if plan.config.warmup_epochs is None:
        resolved["warmup_epochs"] = default_warmup(plan.config.epochs)
    settings = asdict(plan.config) | resolved
    for name in NOT_KEPT:
        del settings[name]
    paths = {key: utf8_text(settings[key]) for key in ("out", "test_store", "local_cache") if settings[key] is not None}
    return settings | paths


def grid_settings(plan: Plan) -> Settings:
    """Return the settings that may differ between this fit and other fits of the same run."""
    return {key: value for key, value in resolved_settings(plan).items() if key in GRID}


def shared_settings(plan: Plan) -> Settings:
    """Return the settings that all cells of a run have in common."""
    return {key: value for key, value in resolved_settings(plan).items() if key not in OWN}


def unread_settings(*, solved: bool) -> tuple[str, ...]:
    """Return the shared settings that a head does not read, by whether it is fitted at once."""
    return OF_STEPS if solved else OF_SOLVERS


def identity(plan: Plan) -> str:
    """Return, as text, everything that determines a cell's numbers besides its name."""
    return json.dumps({"settings": shared_settings(plan), "data": plan.data.fingerprints()}, default=str)
