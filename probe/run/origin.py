"""What the cells of a run were made with and from, as `config.yaml` keeps it under `made_from`.

A run with results and without this file is refused: nothing would tell whether other cells may stand beside its own.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ...errors import RunError
from ...store.checked import read
from ...store.durable import write_durably
from ..config import MADE_FROM
from ..grid.cells import store_of
from .files import WAY_OUT, damaged, read_file
from .results import Run

NAME = "config.yaml"


@dataclass(frozen=True)
class KnownStore:
    """A store of a run.

    Attributes:
        path: where it was last.
        fingerprints: of the data of a fit; see `Data.fingerprints`.
    """

    path: str
    fingerprints: dict[str, str]


@dataclass(frozen=True)
class Origin:
    """What made the cells of a run.

    Attributes:
        commands: the stores, heads, layers, rates and so on of every fit that worked on the run.
        stores: by their names in the run.
        batch_sizes: of each training set, by its shots.
        shared: settings that all cells have in common.
    """

    commands: list[dict[str, Any]] = field(default_factory=list)
    stores: dict[str, KnownStore] = field(default_factory=dict)
    batch_sizes: dict[str, int] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)


def read_origin(run: Run) -> Origin | None:
    """Return what made the finished cells of a run, or None if there are none.

    Raises:
        RunError: there are, and no file tells of them, or one that is damaged.
    """
    path = run.path / NAME
    data = read_file(path)
    if run.results.empty:
        return None
    if data is None:
        raise RunError(
            f"run {str(run.path)!r} has results and no {NAME}, which says what they were made with; {WAY_OUT}"
        )
    try:
        content = yaml.load(data, _PlainLoader)
        if not isinstance(content, dict) or MADE_FROM not in content:
            raise ValueError(f"it has no key {MADE_FROM}")
        origin: Origin = read(Origin, content[MADE_FROM], MADE_FROM)
    except Exception as error:  # damaged YAML fails in any way
        raise damaged(path, error) from error
    unknown = set(run.results["cell"].map(store_of)) - origin.stores.keys()
    if unknown or not origin.shared:
        raise damaged(path, f"it does not know the store {min(unknown)!r}" if unknown else "it knows no settings")
    return origin


def write_origin(folder: Path, settings: dict[str, Any], origin: Origin) -> None:
    """Write `config.yaml`: settings, which it can be given again with, and what made the run."""
    content = settings | {MADE_FROM: asdict(origin)}
    write_durably(folder / NAME, yaml.dump(content, Dumper=_PlainDumper, sort_keys=False).encode())


class _PlainDumper(yaml.SafeDumper):
    """Writes out what is in two places, instead of referring from one to the other."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _PlainLoader(yaml.SafeLoader):
    """Takes no references, by which a small file can stand for a huge one."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "it has aliases")
        return super().compose_node(parent, index)
