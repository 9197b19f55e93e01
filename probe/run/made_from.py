"""Checks whether a fit may add its cells to a run: its settings and stores must agree with the run's.

A fit may add other heads, layers, rates and stores. A command that would change the meaning of finished cells is
refused.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ...errors import InputError
from ...runtime.address import is_address
from ...runtime.text import utf8_text
from ...store import Store
from ..config import FitConfig
from ..grid.cells import shortened
from ..grid.regimes import default_warmup
from ..planning.plan import Plan
from ..planning.settings import grid_settings, resolved_settings, shared_settings
from .extracted import extract_arguments
from .origin import KnownStore, Origin, read_origin, write_origin
from .results import Run
from .store_names import check_names_differ

DEFAULTS = {each.name: each.default for each in fields(FitConfig) if each.default is not MISSING}
MOST_EPOCHS = 2**31
LONGEST_STORE = 80
"""Most bytes in a store's name. The names of its cells begin with it."""


def name_stores(run: Run, plans: Sequence[Plan]) -> list[Plan]:
    """Return the plans, each with its store's name in the run, and with the name that people chose, now or earlier.

    Raises:
        InputError: the run was made with other settings, or a store's data changed, or two stores hold the same data.
        RunError: the run does not record its settings, or is damaged.
    """
    origin = read_origin(run)
    if origin is not None:
        _check_settings(run, origin.shared, plans[0])
    stores = {} if origin is None else dict(origin.stores)
    named = [_named(run, plan, stores) for plan in plans]
    check_names_differ(stores)
    for index, plan in enumerate(named):
        twin = next((other for other in named[:index] if other.name == plan.name), None)
        if twin is not None:
            raise InputError(
                f"{str(twin.data.store.path)!r} and {str(plan.data.store.path)!r} hold the same features of "
                "the same images; give one of them"
            )
    return named


def claim(run: Run, plans: Sequence[Plan], device: str) -> None:
    """Write `config.yaml` for named plans: their settings, and the origin of the run's cells.

    Args:
        run: to write to; this process has its lock.
        plans: from `name_stores`.
        device: device of the fit.
    """
    made = read_origin(run) or Origin()
    command = {"stores": [plan.name for plan in plans]} | grid_settings(plans[0])
    origin = Origin(
        commands=made.commands if command in made.commands else [*made.commands, command],
        stores=made.stores | {plan.name: _known(plan) for plan in plans},
        batch_sizes={regime.shots: regime.batch_size for plan in plans for regime in plan.grid.regimes},
        shared=shared_settings(plans[0]),
        extracted=made.extracted | {utf8_text(each.path): extract_arguments(each) for each in _stores_of(plans)},
        places=made.places | {utf8_text(each.path): _place(each) for each in _stores_of(plans)},
    )
    config, settings = plans[0].config, resolved_settings(plans[0]) | {"device": device}
    notes = [f"from preset {config.preset}: {', '.join(config.of_preset())}"] if config.preset else []
    write_origin(run.path, settings, origin, notes)
    run.rename(chosen_names(plans))


def _stores_of(plans: Sequence[Plan]) -> list[Store]:
    """Return the stores that plans read."""
    return [split.store for plan in plans for split in (plan.data.train, plan.data.test)]


def _place(store: Store) -> str:
    """Return the absolute path of a store; an address is one already."""
    return utf8_text(store.path if is_address(store.path) else Path(store.path).absolute())


def chosen_names(plans: Sequence[Plan]) -> dict[str, str]:
    """Return the names that people chose, by the name of each store in the run."""
    return {plan.name: plan.label for plan in plans}


def _check_settings(run: Run, made: Mapping[str, Any], plan: Plan) -> None:
    asked = yaml.safe_load(yaml.safe_dump(shared_settings(plan)))
    of_older_runs = {key: value for key, value in DEFAULTS.items() if key in asked}  # they lack newer settings
    made = of_older_runs | dict(made)
    derived = all(map(_has_default_warmup, (made, asked)))
    differing = [
        key
        for key in sorted(made.keys() | asked.keys())
        if made.get(key) != asked.get(key) and not (derived and key == "warmup_epochs")  # epochs decide these
    ]
    if differing:
        listed = "; ".join(f"{key}: stored {made.get(key)!r}, asked {asked.get(key)!r}" for key in differing)
        raise InputError(f"run {str(run.path)!r} was made with other settings ({listed}); give another --out")


def _has_default_warmup(settings: Mapping[str, Any]) -> bool:
    epochs = settings.get("epochs")
    return isinstance(epochs, int) and epochs < MOST_EPOCHS and settings.get("warmup_epochs") == default_warmup(epochs)


def _known(plan: Plan) -> KnownStore:
    return KnownStore(utf8_text(plan.data.store.path), plan.data.fingerprints(), plan.label)


def _named(run: Run, plan: Plan, stores: dict[str, KnownStore]) -> Plan:
    """Return a plan with both names of its store, and keep the chosen one in `stores`."""
    name = _name_store(run, plan, stores)
    label = plan.label or stores[name].name
    stores[name] = replace(stores[name], name=label)
    return replace(plan.named(name), label=label)


def _name_store(run: Run, plan: Plan, stores: dict[str, KnownStore]) -> str:
    """Return a store's name in the run, and add it to `stores`: the model's name, with a hash if that is taken."""
    asked = _known(plan)
    for name, known in stores.items():
        if known.fingerprints == asked.fingerprints:
            return name
        if known.path == asked.path:
            differing = [key for key, value in asked.fingerprints.items() if known.fingerprints.get(key) != value]
            raise InputError(
                f"run {str(run.path)!r} was made from other data than {known.path!r} now holds ({', '.join(differing)} "
                "images, backbone, transform or split differ); give another --out"
            )
    model = plan.data.store.manifest.recipe.model
    name = shortened(re.sub(r"[^\w.@+=-]", "_", model.partition(":")[2] or model), LONGEST_STORE)
    if name in stores:
        name += "~" + hashlib.sha256(json.dumps(asked.fingerprints).encode()).hexdigest()[:6]
    stores[name] = asked
    return name
