"""How much of a store is there: its journal against its disk, without reading any token."""

from collections.abc import Set
from dataclasses import dataclass
from itertools import product

from .array_spec import array_spec
from .contract import StoreFiles
from .journal import finished_files
from .layout import layer_index
from .manifest import Manifest
from .reader import Store


@dataclass(frozen=True)
class Blocks:
    """How many blocks of one layer of a split are written, out of how many, over all views."""

    n_done: int
    n_all: int


@dataclass(frozen=True)
class Stock:
    """How much of a store is there.

    Attributes:
        n_bytes: of the finished files.
        n_files: files that the manifest declares.
        n_missing: declared files that are not there, or not of the size that was written.
        unfinished: layers that lack blocks, by (split, layer).
    """

    n_bytes: int
    n_files: int
    n_missing: int
    unfinished: dict[tuple[str, int], Blocks]


def take_stock(store: Store) -> Stock | None:
    """Count the files that are there; None if no journal is at hand: the store is far away, or others made it."""
    files = store.arrays.journaled_files()
    if files is None:
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
        for layer, kinds in info.layers.items():
            specs = [array_spec(manifest, split, layer, kind) for kind in kinds]
            written = [
                all(files.block_name(spec, view, block) in finished for spec in specs)
                for view, block in product(range(info.views), range(info.n_blocks))
            ]
            if not all(written):
                lacking[split, layer_index(layer)] = Blocks(sum(written), len(written))
    return lacking
