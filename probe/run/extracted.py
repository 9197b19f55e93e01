"""The commands that made a store, from its journal, so that a run can say how to make all of it again."""

from collections.abc import Iterator, Mapping
from typing import Any

from ...runtime.options import flag_of
from ...store import Store

NOT_OF_THE_BYTES = ("out", "overwrite", "dry_run", "workers", "engine", "shard", "address", "num_gpus")
"""Settings that change nothing in a store."""


def extract_arguments(store: Store) -> list[list[str]]:
    """Return the arguments of each distinct `probe extract` that made a store, without `-o`.

    They are none for a store without a journal. Journals of older versions do not say which settings have their
    default, so all of them are written.
    """
    commands = [
        list(_arguments({name: value for name, value in config.items() if given is None or name in given}))
        for config, given in store.extractions
    ]
    return [command for place, command in enumerate(commands) if command not in commands[:place]]


def _arguments(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        if name in NOT_OF_THE_BYTES or value is None or value is False or value in ([], {}):
            continue
        yield flag_of(name)
        if isinstance(value, dict):
            yield ",".join(f"{key}={each}" for key, each in value.items())
        elif isinstance(value, list):
            yield ",".join(map(str, value))
        elif value is not True:
            yield str(value)
