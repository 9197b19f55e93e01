"""Passes under a limit, against all ways of cutting the same groups."""

from collections.abc import Sequence
from random import Random

import numpy as np
import pytest

from tokenprobe.errors import InputError
from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.grid.cells import Cell, CellGroup
from tokenprobe.probe.grid.regimes import Regime
from tokenprobe.probe.grid.specs import parse_heads
from tokenprobe.probe.planning.memory import StepMemory
from tokenprobe.probe.planning.passes import make_passes, needed

HEADS = parse_heads(["ep:queries=2|4|8", "aim", "linear"])


def make_regime(batch_size: int = 64) -> Regime:
    return Regime("full", (0,), np.arange(9), np.arange(0), batch_size, 1, 0.0, (1,))


def make_group(regime: Regime, head: int, n_cells: int) -> CellGroup:
    cells = (Cell("s", LayerSet((11,)), HEADS[head], "lars", 0.1, 0.0, "full", seed) for seed in range(n_cells))
    return CellGroup(regime, tuple(cells))


class Memory:
    """Counts of bytes that can be reckoned by hand: so much a cell, and so much however many."""

    def __init__(self, kept: int = 1, working: int = 10, batch: int = 0) -> None:
        self.kept, self.working, self.batch = kept, working, batch

    def __call__(self, group: CellGroup) -> StepMemory:
        n_cells, kinds = len(group.cells), ("mean",) if group.cells[0].head.name == "linear" else ("patch",)
        return StepMemory(self.kept * n_cells, self.batch + self.working * n_cells, self.batch, kinds)


def sizes(passes: Sequence[Sequence[CellGroup]]) -> list[list[int]]:
    return [[len(group.cells) for group in groups] for groups in passes]


def fewest_passes(parts: Sequence[CellGroup], limit: int, memory: Memory) -> int:
    """Return the least number of pieces that fit, over all ways to cut a sequence."""
    fewest = [0]
    for end in range(1, len(parts) + 1):
        starts = [start for start in range(end) if needed(parts[start:end], memory) <= limit]
        fewest.append(1 + min(fewest[start] for start in starts))
    return fewest[-1]


def test_all_that_fits_trains_in_one_pass_and_nothing_is_said() -> None:
    regime = make_regime()
    groups = [make_group(regime, 0, 4), make_group(regime, 1, 6)]
    assert make_passes(groups, 70, Memory()) == ([groups], [])  # 4 + 6 kept, 60 for the larger step
    assert make_passes([], 70, Memory()) == ([], [])


def test_a_group_is_split_to_stay_in_one_pass() -> None:
    found = make_passes([make_group(make_regime(), 2, 24)], 24 + 80, Memory())
    assert sizes(found.passes) == [[8, 8, 8]]
    assert found.notes == ["memory: ep:queries=8 on layer 11 (24 cells) trains in 3 parts"]


def test_groups_that_fit_alone_are_split_too_if_that_saves_a_pass() -> None:
    """Whole, they would keep 10 + 10 and take 80: 100. In halves, 20 + 40."""
    regime = make_regime()
    groups = [make_group(regime, 0, 10), make_group(regime, 1, 10)]
    found = make_passes(groups, 115, Memory())
    assert sizes(found.passes) == [[5, 5, 5, 5]]
    assert found.notes == [
        "memory: ep:queries=2 on layer 11 (10 cells) trains in 2 parts; "
        "ep:queries=4 on layer 11 (10 cells) trains in 2 parts"
    ]


def test_what_must_be_kept_makes_passes() -> None:
    found = make_passes([make_group(make_regime(), 2, 24)], 100, Memory(kept=10, working=1))
    assert sizes(found.passes) == [[8], [8], [8]]
    assert found.notes == ["memory: ep:queries=8 on layer 11 (24 cells) trains in 3 parts; 3 passes over the tokens"]


def test_groups_of_a_regime_share_a_batch_of_the_same_arrays() -> None:
    regime, other = make_regime(), make_regime(32)
    memory = Memory(kept=1, working=2, batch=100)
    patch, more, mean = (make_group(regime, head, 3) for head in (0, 1, 4))
    assert needed([patch], memory) == 3 + 100 + 6
    assert needed([patch, more], memory) == 6 + 100 + 6
    assert needed([patch, mean], memory) == 6 + 200 + 6  # both forms are there at once
    assert needed([patch, make_group(other, 4, 3)], memory) == 6 + 100 + 6  # but regimes take turns
    assert needed([], memory) == 0


def test_limits_hold_every_cell_is_there_once_and_in_order_and_no_cut_has_fewer_passes() -> None:
    random = Random(0)
    n_split = n_passes = 0
    for _ in range(400):
        regimes = [make_regime(), make_regime()]
        groups = [make_group(regimes[random.random() < 0.3], head, random.randint(1, 9)) for head in range(5)]
        memory = Memory(random.randint(0, 5), random.randint(1, 9), random.choice([0, 7]))
        limit = random.randint(needed(groups, memory) // 9, needed(groups, memory))
        if limit < max(needed([CellGroup(group.regime, group.cells[:1])], memory) for group in groups):
            continue
        found = make_passes(groups, limit, memory)
        assert found == make_passes(groups, limit, memory)
        assert all(needed(of_pass, memory) <= limit for of_pass in found.passes)
        parts = [part for of_pass in found.passes for part in of_pass]
        assert [cell for part in parts for cell in part.cells] == [cell for group in groups for cell in group.cells]
        assert all(any(set(part.cells) <= set(group.cells) for group in groups) for part in parts)
        assert len(found.passes) == fewest_passes(parts, limit, memory)
        if needed(groups, memory) <= limit:
            assert found.passes == [groups]
        assert bool(found.notes) == (found.passes != [groups])
        n_split += len(parts) > len(groups)
        n_passes += len(found.passes) > 1
    assert n_split > 50 and n_passes > 50


def test_parts_are_no_smaller_than_they_must_be() -> None:
    """A step may be large where that costs no pass: the fewest parts of those that do."""
    random = Random(1)
    for _ in range(100):
        group, memory = make_group(make_regime(), 0, random.randint(2, 12)), Memory(0, random.randint(1, 9))
        limit = random.randint(memory.working, needed([group], memory))
        largest = limit // memory.working
        assert len(make_passes([group], limit, memory).passes[0]) == -(-len(group.cells) // largest)


@pytest.mark.parametrize("limit", [9, -(10**9)])
def test_a_cell_that_does_not_fit_alone_is_refused(limit: int) -> None:
    memory = Memory(kept=500_000_000, working=1_000_000_000, batch=750_000_000)
    expected = (
        r"one cell of 'ep:queries=2' on layer 11 with 64 images in a batch takes 2.25 GB of memory, but only "
        r"(9|0) B are free: give a smaller --batch-size, a head or a layer with fewer tokens, or another --device"
    )
    with pytest.raises(InputError, match=expected):
        make_passes([make_group(make_regime(), 0, 3)], limit, memory)
