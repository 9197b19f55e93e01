"""The origin of a run's cells: their settings and stores, which `config.yaml` keeps under `made_from`.

A run that has results but lacks this file is refused. Without it, no fit can tell whether new cells are comparable.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ...errors import RunError
from ...store.checked import read
from ...store.durable import write_durably
from ...store.temporaries import new_writer, temporary_of
from ..config import MADE_FROM
from ..grid.cells import store_of
from .files import WAY_OUT, damaged, read_file
from .results import Run

NAME = "config.yaml"


@dataclass(frozen=True)
class KnownStore:
    """A store of a run.

    Attributes:
        path: its last known path.
        fingerprints: fingerprints of the data; see `Data.fingerprints`.
        name: the name that people chose for it, or empty.
    """

    path: str
    fingerprints: dict[str, str]
    name: str = ""


@dataclass(frozen=True)
class Origin:
    """The origin of a run's cells.

    Attributes:
        commands: one dict per distinct fit: its stores, heads, layers, rates and other grid settings.
        stores: the stores, by name in the run.
        batch_sizes: the batch size per training set, by shots.
        shared: settings that all cells share.
        extracted: by path of a store, the arguments of each `probe extract` that made it, without `-o`.
        places: absolute paths of stores, by their paths as they were given. Runs of earlier versions lack them.
    """

    commands: list[dict[str, Any]] = field(default_factory=list)
    stores: dict[str, KnownStore] = field(default_factory=dict)
    batch_sizes: dict[str, int] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)
    extracted: dict[str, list[list[str]]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)


def read_origin(run: Run) -> Origin | None:
    """Return the origin of a run's finished cells, or None if it has none.

    Raises:
        RunError: there are finished cells, but `config.yaml` is missing or damaged.
    """
    data = read_file(run.path / NAME)
    if not run.finished:
        return None
    if data is None:
        raise RunError(f"run {str(run.path)!r} has results but no {NAME}, so their settings are unknown; {WAY_OUT}")
    origin = _parse(run.path / NAME, data)
    unknown = set(map(store_of, run.finished)) - origin.stores.keys()
    if unknown or not origin.shared:
        reason = f"it lacks the store {min(unknown)!r}" if unknown else "it lacks the settings"
        raise damaged(run.path / NAME, reason)
    return origin


def check_same_settings(run: Path, parts: Sequence[Run]) -> None:
    """Check that `config.yaml` of a run, with cells or without, says what its parts were trained with.

    Raises:
        RunError: a setting that all cells share differs, or the file is missing or damaged.
    """
    data = read_file(run / NAME)
    told = None if data is None else _parse(run / NAME, data).shared
    for origin in filter(None, map(read_origin, parts)):
        if told != origin.shared:
            differing = sorted(key for key, value in origin.shared.items() if (told or {}).get(key) != value)
            raise RunError(
                f"{str(run / NAME)!r} is missing or has other settings than the parts of the run "
                f"({', '.join(differing)}); repeat the probe fit of the parts without --shard, which writes it and "
                "merges them"
            )


def write_origin(folder: Path, settings: dict[str, Any], origin: Origin, notes: Sequence[str] = ()) -> None:
    """Write `config.yaml`: notes as comments, the settings, which `--config` can read again, and the run's origin."""
    content = settings | {MADE_FROM: asdict(origin)}
    text = "".join(f"# {note}\n" for note in notes) + yaml.dump(content, Dumper=_PlainDumper, sort_keys=False)
    path = folder / NAME
    write_durably(path, text.encode(), temporary_of(path, new_writer()))  # shards may do so at the same time


def _parse(path: Path, data: bytes) -> Origin:
    try:
        content = yaml.load(data, _PlainLoader)
        if not isinstance(content, dict) or MADE_FROM not in content:
            raise ValueError(f"it has no key {MADE_FROM}")
        origin: Origin = read(Origin, content[MADE_FROM], MADE_FROM)
    except Exception as error:  # damaged YAML may raise any error
        raise damaged(path, error) from error
    return origin


class _PlainDumper(yaml.SafeDumper):
    """Writes a repeated value out in full, instead of an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases: with them, a small file can expand to a huge one."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "it has aliases")
        return super().compose_node(parent, index)
