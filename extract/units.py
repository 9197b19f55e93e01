"""Units of an extraction: a few missing blocks of one view of a split, which one worker does in some seconds."""

from collections.abc import Iterator, Sequence
from itertools import product
from math import ceil
from typing import NamedTuple

from ..engines.shards import share_of
from ..store import BlockKey, BlockWriter
from .forward import Batch
from .plan import Plan
from .rows import batches_of, even_batch_size

UNIT_IMAGES, UNITS = 256, 16
"""A unit has as many blocks as have so many images, but a split is divided into so many units if it has the blocks."""


class Unit(NamedTuple):
    """Blocks of one view of a split.

    Attributes:
        split: its name.
        view: index of the view.
        blocks: the missing layers of each block, by number.
        n_images: rows of these blocks.
    """

    split: str
    view: int
    blocks: dict[int, tuple[int, ...]]
    n_images: int


def make_units(plan: Plan, writer: BlockWriter, shard: str | None = None) -> list[Unit]:
    """Divide the missing blocks into units, view by view, in row order.

    The bounds of units do not depend on what is missing. So shards that start at different times share no block.

    Args:
        plan: of the extraction.
        writer: knows what is missing.
        shard: "I/N" for a share of the units.
    """
    units = []
    for split, view, blocks in share_of(_ranges(plan), shard):
        info = plan.manifest.splits[split]
        missing = {block: tuple(writer.missing_layers(BlockKey(split, view, block))) for block in blocks}
        missing = {block: layers for block, layers in missing.items() if layers}
        n_images = sum(min(info.block_rows, info.n_images - block * info.block_rows) for block in missing)
        if missing:
            units.append(Unit(split, view, missing, n_images))
    return units


def _ranges(plan: Plan) -> list[tuple[str, int, range]]:
    """Return the split, view and blocks of every unit of a store without any block."""
    return [
        (split, view, range(first, min(first + n_blocks, info.n_blocks)))
        for split, info in plan.manifest.splits.items()
        for n_blocks in [max(1, min(ceil(UNIT_IMAGES / info.block_rows), info.n_blocks // UNITS))]
        for view in range(info.views)
        for first in range(0, info.n_blocks, n_blocks)
    ]


def batches_of_unit(plan: Plan, unit: Unit, batch_size: int) -> Iterator[Batch]:
    """Yield the forward passes of a unit, in row order."""
    info = plan.manifest.splits[unit.split]
    size = even_batch_size(info.block_rows, batch_size)
    for block, layers in unit.blocks.items():
        key = BlockKey(unit.split, unit.view, block)
        first = block * info.block_rows
        stop = min(first + info.block_rows, info.n_images)
        for start in range(first, stop, size):
            rows = range(start, min(start + size, stop))
            yield Batch(key, rows, size, layers, rows.stop == stop)


def batch_sizes(plan: Plan, batch_size: int) -> Sequence[int]:
    """Return the number of images of every forward pass over the whole store."""
    sizes = []
    for info in plan.manifest.splits.values():
        blocks = batches_of(info.n_images, info.block_rows, even_batch_size(info.block_rows, batch_size))
        sizes += [len(rows) for _, batches in product(range(info.views), blocks) for rows in batches]
    return sizes
