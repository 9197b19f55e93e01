"""`config.yaml` of a run: the settings that its cells share, and the stores they were made from.

A run may be extended by other heads, layers, rates and stores. A command that would change the meaning of finished
cells is refused.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ...errors import InputError
from ...store.durable import write_durably
from ..config import MADE_FROM
from ..grid.regimes import default_warmup
from ..planning.plan import Plan
from ..planning.settings import grid_settings, resolved_settings, shared_settings
from .results import Run

Json = dict[str, Any]


def name_stores(run: Run, plans: Sequence[Plan]) -> list[Plan]:
    """Return the plans of stores, each with the name that its store has in a run.

    Raises:
        InputError: the folder was made with other settings, or a store was another one then, or two hold the same.
    """
    made = _made_from(run)
    if made:
        _check_settings(run, made["shared"], plans[0])
    stores = dict(made.get("stores", {}))
    named = [plan.named(_name_store(run, plan, stores)) for plan in plans]
    for index, plan in enumerate(named):
        twin = next((other for other in named[:index] if other.name == plan.name), None)
        if twin is not None:
            raise InputError(
                f"{str(twin.data.store.path)!r} and {str(plan.data.store.path)!r} hold the same features of "
                "the same images; give one of them"
            )
    return named


def claim(run: Run, plans: Sequence[Plan], device: str) -> None:
    """Write `config.yaml` for named plans: their settings, and under `MADE_FROM` what else made the run's cells.

    Args:
        run: to write to; this process has its lock.
        plans: of `name_stores`.
        device: that the plans are fitted on.
    """
    made = _made_from(run)
    stores = made.get("stores", {}) | {
        plan.name: {"path": str(plan.data.store.path), "fingerprints": plan.data.fingerprints()} for plan in plans
    }
    command = {"stores": [plan.name for plan in plans]} | grid_settings(plans[0])
    commands = made.get("commands", [])
    about = (
        resolved_settings(plans[0])
        | {"device": device}
        | {
            MADE_FROM: {
                "commands": commands if command in commands else [*commands, command],
                "stores": stores,
                "batch_sizes": {regime.shots: regime.batch_size for plan in plans for regime in plan.grid.regimes},
                "shared": shared_settings(plans[0]),
            }
        }
    )
    write_durably(run.path / "config.yaml", yaml.safe_dump(about, sort_keys=False).encode())


def _made_from(run: Run) -> Json:
    """Return what the finished cells of a run were made with and from; nothing if there are none."""
    path = run.path / "config.yaml"
    found: Json = {}
    if path.exists() and not run.results.empty:
        found = yaml.safe_load(path.read_text()).get(MADE_FROM, {})
    return found


def _check_settings(run: Run, made: Mapping[str, Any], plan: Plan) -> None:
    asked = yaml.safe_load(yaml.safe_dump(shared_settings(plan)))
    derived = all(each["warmup_epochs"] == default_warmup(each["epochs"]) for each in (made, asked))
    differing = [
        key
        for key in sorted(made.keys() | asked.keys())
        if made.get(key) != asked.get(key) and not (derived and key == "warmup_epochs")  # that epochs decide
    ]
    if differing:
        listed = "; ".join(f"{key}: there {made.get(key)!r}, asked {asked.get(key)!r}" for key in differing)
        raise InputError(f"run {str(run.path)!r} was made with other settings ({listed}); give another --out")


def _name_store(run: Run, plan: Plan, stores: dict[str, Json]) -> str:
    """Return the name of a store in a run, and note it: the model's, and a hash where two would be alike."""
    path, fingerprints = str(plan.data.store.path), plan.data.fingerprints()
    for name, known in stores.items():
        if known["fingerprints"] == fingerprints:
            return name
        if known["path"] == path:
            differing = [key for key, value in fingerprints.items() if known["fingerprints"].get(key) != value]
            raise InputError(
                f"run {str(run.path)!r} was made from other data under {path!r} ({', '.join(differing)} images, "
                "backbone, transform or split differ); give another --out"
            )
    model = plan.data.store.manifest.recipe.model
    name = re.sub(r"[^\w.@+=-]", "_", model.partition(":")[2] or model)
    if name in stores:
        name += "~" + hashlib.sha256(json.dumps(fingerprints).encode()).hexdigest()[:6]
    stores[name] = {"path": path, "fingerprints": fingerprints}
    return name
