"""The stores of a run, found again: where they were, and with the data that the run was made from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, MissingError
from ..probe.grid.cells import store_of
from ..probe.run.origin import Origin, read_origin
from ..probe.run.results import Run
from ..probe.run.saved import SavedHead
from ..store import Store, open_store
from ..store.reader import Split

TEST = "test"


def open_split(run: Path, cell: str, about: SavedHead, split: str | None) -> Split:
    """Open a split of the stores of a cell; by default the one that its results report on.

    Args:
        run: its folder.
        cell: name of the cell.
        about: what its head's file says.
        split: name of a split in the store that was trained on, or in the `--test-store`.

    Raises:
        InputError: no such split, or a store holds other data than the cell was made from.
        MissingError: a store is gone.
    """
    origin = read_origin(Run(run))
    name = store_of(cell)
    if origin is None or name not in origin.stores:
        raise MissingError(f"run {str(run)!r} does not know the store of {cell!r}; give --images")
    commands: list[Mapping[str, Any]] = [each for each in origin.commands if name in each["stores"]]
    command, known = commands[-1] if commands else {}, origin.stores[name]
    reported, other = command.get("test_split") or TEST, command.get("test_store")
    parts = {"train": command.get("train_split"), "val": command.get("val_split") or command.get("train_split")}

    def opened(path: str, parts: Mapping[str, str | None]) -> Store:
        wanted = {part: of_part for part, of_part in parts.items() if of_part is not None}
        asked = split or reported
        wanted = {part: of_part for part, of_part in wanted.items() if of_part == asked} or wanted
        store = _open(origin, path, {wanted[part]: known.fingerprints.get(part, "") for part in wanted}, cell)
        if store.manifest.recipe.weights != about.weights:
            raise InputError(
                f"the store {str(store.path)!r} holds tokens of {store.manifest.recipe.model!r} with other weights "
                f"than {cell!r} was trained on; give --images"
            )
        return store

    if other is None:
        return opened(known.path, parts | {"test": reported if commands else None})[split or reported]
    if split in (None, reported):
        return opened(other, {"test": reported})[reported]
    store = opened(known.path, parts)
    return store[split] if split in store.splits else opened(other, {"test": reported})[split]


def _open(origin: Origin, path: str, fingerprints: Mapping[str, str], cell: str) -> Store:
    """Open a store where it was, or at its path as it was given, if it holds the data with these fingerprints.

    Args:
        origin: of the run.
        path: as it was given.
        fingerprints: of some splits.
        cell: for messages.
    """
    gone, changed = None, None
    for place in dict.fromkeys([origin.places.get(path, path), path]):
        try:
            store = open_store(place)
        except MissingError as error:
            gone = gone or error
            continue
        differing = [name for name, known in fingerprints.items() if known not in _fingerprints(store, name)]
        if not differing:
            return store
        changed = changed or (place, differing)
    if changed is not None:
        raise InputError(
            f"the store {changed[0]!r} holds other data than {cell!r} was made from (splits "
            f"{', '.join(changed[1])}); put the store back, or give --images"
        )
    raise MissingError(f"{gone}; put the store back, or give --images to compute the tokens") from gone


def _fingerprints(store: Store, split: str) -> list[str]:
    """Return the fingerprints that `Data.fingerprints` could have of a split: one per view, as views may be added."""
    if split not in store.splits:
        return []
    return [store.manifest.fingerprint(split, 0, view) for view in range(store.manifest.splits[split].views)]
