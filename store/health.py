"""How much of a store is on the disk, by its journal and file sizes. No token is read."""

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
    """Blocks written and blocks in all, of one layer of a split, over all views."""

    n_done: int
    n_all: int


@dataclass(frozen=True)
class Stock:
    """How much of a store is on the disk.

    Attributes:
        n_bytes: of the finished files.
        n_files: files that the manifest declares.
        n_missing: declared files that are missing or have another size than was written.
        unfinished: layers that lack blocks, by (split, layer).
    """

    n_bytes: int
    n_files: int
    n_missing: int
    unfinished: dict[tuple[str, int], Blocks]


def take_stock(store: Store) -> Stock | None:
    """Count the files of a store. None without a journal: other software made or copied the store."""
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
    """Return the layers that lack blocks. A block counts as written when all its arrays are written."""
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
