"""Names that people choose for stores: `probe fit mae=a.zarr dino=b.zarr`. They are in the run, not in the stores."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ...errors import InputError
from .origin import KnownStore

GIVEN = re.compile(r"([^=/\\:]+)=(.+)")
"""NAME=PATH. A URL such as s3://bucket/a=b.zarr is no name and a path."""
LONGEST = 60
"""Most characters in a name: it stands in tables and legends."""


class GivenStore(NamedTuple):
    """A store as it was given.

    Attributes:
        name: the name chosen for it, or empty.
        path: its path.
    """

    name: str
    path: str | Path


def split_name(given: str | Path) -> GivenStore:
    """Split "mae=a.zarr" into a name and a path. A path that exists as it is given has no name.

    Raises:
        InputError: the name cannot stand in a table, or there is nothing at the path.
    """
    parts = GIVEN.fullmatch(given) if isinstance(given, str) and not Path(given).exists() else None
    if parts is None:
        return GivenStore("", given)
    name, path = parts[1].strip(), parts[2]
    if not name or not name.isprintable() or len(name) > LONGEST:
        raise InputError(
            f"{name!r} cannot name a store in tables; give at most {LONGEST} characters that can be printed"
        )
    if "://" not in path and not Path(path).exists():
        raise InputError(f"no store at {path!r}, to be named {name!r}, and none at {given!r}; check the path")
    return GivenStore(name, path)


def check_names_differ(stores: Mapping[str, KnownStore]) -> None:
    """Refuse one name for two stores of a run.

    Raises:
        InputError: a name is taken.
    """
    taken: dict[str, str] = {}
    for store in stores.values():
        if store.name and store.name in taken:
            raise InputError(
                f"the name {store.name!r} is given to both {taken[store.name]!r} and {store.path!r}; give each its own"
            )
        taken[store.name] = store.path
