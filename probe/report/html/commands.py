"""The origin of a report's cells: each run's settings, and the commands that make the run again."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ....errors import RunError
from ....runtime.options import flags_of
from ....runtime.text import printable, utf8_text
from ...config import FitConfig
from ...run.files import read_file
from ...run.origin import NAME, KnownStore, Origin, read_origin
from ...run.results import Run


def describe_runs(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the path, the text of `config.yaml` and the commands of each run."""
    return [
        {
            "path": printable(utf8_text(run.path)),
            "config": (read_file(run.path / NAME) or b"").decode(errors="backslashreplace"),
            "commands": [shlex.join(command) for command in commands_of(run)],
        }
        for run in runs
    ]


def commands_of(run: Run) -> Iterator[list[str]]:
    """Yield the arguments of the commands that made a run's stores, that fitted it, and of its report.

    Stores stand at their last known paths. Settings with their default are left out. A run that has lost its
    settings is reported all the same; its fits are then unknown.
    """
    out = utf8_text(run.path)
    try:
        origin = read_origin(run) or Origin()
    except RunError:
        origin = Origin()
    told = set[str]()
    for command in origin.commands:
        used: list[str] = [origin.stores[name].path for name in command["stores"]]
        for path in [*used, command.get("test_store") or ""]:
            for arguments in origin.extracted.get(path, []) if path not in told else []:
                yield ["probe", "extract", *arguments, "-o", path]
            told.add(path)
        stores = [_store_argument(origin.stores[name]) for name in command["stores"]]
        yield ["probe", "fit", *stores, "-o", out, *_flags(command, origin)]
    yield ["probe", "report", out]


def _store_argument(store: KnownStore) -> str:
    return f"{store.name}={store.path}" if store.name else store.path


def _flags(command: Mapping[str, Any], origin: Origin) -> Iterator[str]:
    return flags_of(FitConfig, {**origin.shared, **command})
