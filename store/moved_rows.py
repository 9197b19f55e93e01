"""Rows that move because an image is left out or added, and the files of a split that hold them.

An image that is left out moves every later row up by one. A larger limit adds rows behind the others, so the last
block is made again. Earlier blocks stay as they are. So an extraction that meets an unreadable image can go on without
it, and a store can grow; both keep the blocks finished before.
"""

from collections.abc import Iterator, Sequence, Set
from itertools import product, zip_longest

from .array_spec import ArraySpec, array_specs
from .contract import StoreFiles
from .layout import CHANNELS, POOLED
from .manifest import Manifest
from .quantize import STATISTICS_ROWS


def first_difference(stored: Sequence[str], ids: Sequence[str]) -> int | None:
    """Return the first row at which two lists of ids differ, or None if they are equal."""
    return next((row for row, (old, new) in enumerate(zip_longest(stored, ids)) if old != new), None)


def first_moved_row(stored: Sequence[str], ids: Sequence[str], skipped: Set[str], *, grown: bool) -> int | None:
    """Return the first row that moved, or None. Ids that differ for another reason than these two are no move.

    Args:
        stored: ids of the rows in a store.
        ids: ids of the rows that it will have.
        skipped: ids of images that are left out now.
        grown: whether the split has had a smaller limit.
    """
    adds = grown and list(stored) == list(ids[: len(stored)])
    return first_difference(stored, ids) if adds or skipped & set(stored) else None


def files_from(files: StoreFiles, manifest: Manifest, split: str, row: int) -> Iterator[str]:
    """Yield the relative paths of the files whose bytes depend on a given row of a split or on later rows.

    The channel statistics of int8 tokens come from the first rows, and decide every block of tokens and of scales:
    if one of those rows moves, all these blocks depend on it.

    Args:
        files: of the store.
        manifest: the one that the files were written with.
        split: by name.
        row: the first row.
    """
    statistics_move = manifest.recipe.dtype == "int8" and row < STATISTICS_ROWS
    for spec in array_specs(manifest):
        if spec.name.startswith(f"{split}/"):
            standardised = statistics_move and spec.name.rpartition("/")[2] not in POOLED
            yield from _blocks_from(files, spec, 0 if standardised else row // spec.block_rows)
            if standardised and spec.type.name == "int8":
                yield from files.whole_names(spec.name + CHANNELS)


def _blocks_from(files: StoreFiles, spec: ArraySpec, first: int) -> Iterator[str]:
    for view, block in product(range(spec.n_views), range(first, spec.n_blocks)):
        yield files.block_name(spec, view, block)
