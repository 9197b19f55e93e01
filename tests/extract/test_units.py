"""Units cover every missing block once, with the batches of an extraction in one go, whoever takes them."""

from types import SimpleNamespace
from typing import Any

import pytest

from tokenprobe.extract.rows import batches_of, even_batch_size
from tokenprobe.extract.units import UNIT_IMAGES, UNITS, batch_sizes, batches_of_unit, make_units
from tokenprobe.store import BlockKey, BlockWriter

BATCH = 16


class Missing(BlockWriter):
    """Stands for a writer of a store in which blocks are missing: `layers` of every third one, or all."""

    def __init__(self, every: int) -> None:
        self.every, self.asked = every, list[BlockKey]()

    def missing_layers(self, key: BlockKey) -> list[int]:
        self.asked.append(key)
        return [0, 3] if key.block % self.every == 0 else []


def plan_of(**splits: tuple[int, int, int]) -> Any:
    """Return a plan of splits with (images, images per block, views)."""
    infos = {
        name: SimpleNamespace(n_images=n, block_rows=rows, n_blocks=-(-n // rows), views=views)
        for name, (n, rows, views) in splits.items()
    }
    return SimpleNamespace(manifest=SimpleNamespace(splits=infos))


@pytest.mark.parametrize("every", [1, 3])
def test_the_units_are_the_missing_blocks_in_row_order(every: int) -> None:
    plan = plan_of(train=(1000, 32, 2), test=(50, 64, 1))
    units = make_units(plan, Missing(every))
    found = [(unit.split, unit.view, block) for unit in units for block in unit.blocks]
    expected = [("train", view, block) for view in range(2) for block in range(32) if block % every == 0]
    assert found == [*expected, ("test", 0, 0)]
    assert all(layers == (0, 3) for unit in units for layers in unit.blocks.values())
    n_images = {1: 2050, 3: 2 * (10 * 32 + 32) + 50}[every]
    assert sum(unit.n_images for unit in units) == n_images == _n_rows(plan, units)


def _n_rows(plan: Any, units: Any) -> int:
    return sum(len(batch.rows) for unit in units for batch in batches_of_unit(plan, unit, BATCH))


@pytest.mark.parametrize("n_shards", [2, 3, 50])
def test_shards_that_start_at_different_times_share_no_block_and_leave_none(n_shards: int) -> None:
    """What is missing differs between them; the bounds of units do not."""
    plan = plan_of(train=(1000, 32, 2), test=(50, 64, 1))
    asked = list[BlockKey]()
    for number in range(n_shards):
        writer = Missing(1 + number % 2)
        make_units(plan, writer, f"{number}/{n_shards}")
        asked += writer.asked
    assert sorted(asked) == sorted(
        BlockKey(s, v, b) for s, v, n in (("test", 0, 1), ("train", 0, 32), ("train", 1, 32)) for b in range(n)
    )


def test_a_unit_has_enough_images_and_a_split_enough_units() -> None:
    (large,) = {len(unit.blocks) for unit in make_units(plan_of(train=(2**20, 64, 1)), Missing(1))}
    assert large * 64 == UNIT_IMAGES
    assert len(make_units(plan_of(train=(160, 4, 1)), Missing(1))) >= UNITS
    assert len(make_units(plan_of(train=(20, 4, 1)), Missing(1))) == 5


def test_the_batches_of_units_are_those_of_the_whole_split() -> None:
    plan = plan_of(train=(1000, 36, 1))
    size = even_batch_size(36, BATCH)
    expected = batches_of(1000, 36, size)
    found = [batch for unit in make_units(plan, Missing(1)) for batch in batches_of_unit(plan, unit, BATCH)]
    assert [batch.rows for batch in found] == [rows for block in expected for rows in block]
    assert {batch.size for batch in found} == {size}
    assert [batch.rows for batch in found if batch.last] == [block[-1] for block in expected]
    assert [batch.key.block for batch in found] == [n for n, block in enumerate(expected) for _ in block]
    assert sorted(batch_sizes(plan, BATCH)) == sorted(len(batch.rows) for batch in found)
    assert len(batch_sizes(plan_of(train=(1000, 36, 3)), BATCH)) == 3 * len(found)
