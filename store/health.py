"""What of a store is there: its journal against its disk, without reading any token."""

from collections.abc import Set
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from .contract import StoreFiles, array_spec
from .formats import store_files
from .journal import NAME, finished_files
from .layout import layer_index
from .library import is_address
from .manifest import Manifest
from .reader import Store


@dataclass(frozen=True)
class Blocks:
    """How many blocks of one layer of a split are written, over all views, of how many."""

    n_done: int
    n_all: int


@dataclass(frozen=True)
class Stock:
    """What of a store is there.

    Attributes:
        n_bytes: of the finished files.
        n_files: files that the manifest declares.
        n_missing: those of them that are not there, or not of the size that was written.
        unfinished: layers that lack blocks, by (split, layer).
    """

    n_bytes: int
    n_files: int
    n_missing: int
    unfinished: dict[tuple[str, int], Blocks]


def take_stock(store: Store) -> Stock | None:
    """Return what is there, or None for a store without a journal at hand: one far away, or made by other means."""
    if is_address(str(store.path)):
        return None
    files = store_files(Path(store.path))
    if not (files.folder / NAME).exists():
        return None
    finished = finished_files(files.folder)
    declared = files.declared(store.manifest)
    return Stock(
        n_bytes=sum(record.size for record in finished.values()),
        n_files=len(declared),
        n_missing=len(declared - finished.keys()),
        unfinished=_unfinished(files, store.manifest, finished.keys()),
    )


def _unfinished(files: StoreFiles, manifest: Manifest, finished: Set[str]) -> dict[tuple[str, int], Blocks]:
    """Return the layers that lack blocks. A block is written when all its arrays are."""
    lacking = {}
    for split, info in manifest.splits.items():
        keys = list(product(range(info.views), range(info.n_blocks)))
        for layer, kinds in info.layers.items():
            specs = [array_spec(manifest, split, layer, kind) for kind in kinds]
            n_done = sum(all(files.block_name(spec, *key) in finished for spec in specs) for key in keys)
            if n_done < len(keys):
                lacking[split, layer_index(layer)] = Blocks(n_done, len(keys))
    return lacking
