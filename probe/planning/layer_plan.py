"""The plan of a set of layers: the cells that a run lacks, the place of each row set, the passes.

This module reads the free memory once per layer, before the first layer starts. It makes all decisions that depend on
free memory.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial

import torch

from ...store.order import RowNumbers
from ..batches.data import SUBSETS, TRAIN
from ..batches.layer_set import LayerSet
from ..batches.token_shape import stored_kind, stored_kinds
from ..grid.cells import CellGroup
from ..grid.regimes import Regime, row_sets, scored_together
from .machine import Machine
from .memory import StepMemory, step_memory
from .passes import make_passes
from .places import DISK, choose_places
from .plan import Plan

USABLE = 0.8
"""Part of the free memory that passes may use: allocators waste some."""


@dataclass(frozen=True)
class LayerPlan:
    """The cells of one layer that a run lacks. False if there are none.

    Attributes:
        plan: of the store.
        layers: that the heads read.
        solved_groups: cells that are fitted at once.
        passes: cells that are trained by steps, grouped by pass.
        kinds: arrays that the heads read.
        rows: sorted rows of each row set that is read.
        places: where patch tokens, or all tokens of stacked layers, of each row set are kept.
        notes: lines about groups that were split to fit into memory.
    """

    plan: Plan
    layers: LayerSet
    solved_groups: Sequence[CellGroup]
    passes: Sequence[Sequence[CellGroup]]
    kinds: Sequence[str]
    rows: Mapping[str, RowNumbers]
    places: Mapping[str, str]
    notes: Sequence[str]

    def __bool__(self) -> bool:
        return bool(self.groups)

    @property
    def label(self) -> str:
        """The layers as text."""
        return self.layers.text

    @property
    def groups(self) -> list[CellGroup]:
        """All groups."""
        return [*self.solved_groups, *(group for groups in self.passes for group in groups)]

    @property
    def n_cells(self) -> int:
        """Number of cells to fit."""
        return sum(len(group.cells) for group in self.groups)

    @property
    def regimes(self) -> list[Regime]:
        """The regimes of the cells."""
        return _regimes(self.groups)

    @property
    def placed(self) -> list[str]:
        """The arrays that `places` is about, as far as heads read them."""
        kinds = stored_kinds(self.kinds)
        return [kind for kind in self.plan.data.placed(self.layers, self.kinds) if kind in kinds]

    def reads_placed(self, group: CellGroup) -> bool:
        """Whether a group reads an array that `places` is about."""
        inputs = group.cells[0].head.inputs(self.plan.data.shape(self.layers))
        return any(stored_kind(kind) in self.placed for kind in inputs)


def make_layer_plan(plan: Plan, machine: Machine, layers: LayerSet, finished: Set[str]) -> LayerPlan:
    """Find the cells that a run lacks, and pack them into passes that fit into memory.

    Args:
        plan: of the store.
        machine: the machine that fits the cells.
        layers: that the heads read.
        finished: names of the cells that the run already has.

    Raises:
        InputError: a single cell does not fit into memory.
    """
    solved = [left for regime in plan.grid.regimes for left in _left(plan.grid.solved_groups(layers, regime), finished)]
    trained = [
        [left for regime in regimes for left in _left(plan.grid.trained_groups(layers, regime), finished)]
        for regimes in scored_together(plan.grid.regimes)
    ]
    groups = [*solved, *(group for together in trained for group in together)]
    if not groups:
        return LayerPlan(plan, layers, [], [], [], {}, {}, [])
    kinds = sorted({kind for group in groups for kind in group.cells[0].head.inputs(plan.data.shape(layers))})
    rows, places, room = _divide_memory(plan, machine, layers, _regimes(groups), kinds)
    packed = [make_passes(together, room, partial(memory_of, plan, machine.device)) for together in trained]
    passes = [groups for of_regimes in packed for groups in of_regimes.passes]
    notes = [note for of_regimes in packed for note in of_regimes.notes]
    return LayerPlan(plan, layers, solved, passes, kinds, rows, places, notes)


def _divide_memory(
    plan: Plan, machine: Machine, layers: LayerSet, regimes: Sequence[Regime], kinds: Sequence[str]
) -> tuple[dict[str, RowNumbers], dict[str, str], int]:
    """Divide the free memory between tokens that are kept and training.

    Returns:
        The rows of each row set that is read, the place of each, and the bytes that a pass may take.
    """
    rows = row_sets(plan.data, regimes)
    placed = plan.data.placed(layers, kinds)
    sizes = {name: len(of_set) * plan.data.row_bytes(layers, placed, name) for name, of_set in rows.items()}
    free = machine.free_bytes()
    places = choose_places(machine.cache, sizes, {place: n_bytes // 2 for place, n_bytes in free.items()})
    if places.get(TRAIN, DISK) != DISK:
        rows.pop(SUBSETS, None)  # these rows are in the training set, which is kept
    reads_placed = not set(placed).isdisjoint(stored_kinds(kinds))
    kept = sum(sizes[name] for name in rows if places[name] == machine.place) if reads_placed else 0
    return rows, places, int(USABLE * free[machine.place]) - kept


def memory_of(plan: Plan, device: torch.device, group: CellGroup) -> StepMemory:
    """Return the bytes that a group keeps on a device, and the bytes that one of its steps adds."""
    stored = torch.float32 if plan.config.noise else plan.data.token_dtype  # noise is added in float32
    return step_memory(group.cells, plan.group_setup(group, device), stored)


def _regimes(groups: Sequence[CellGroup]) -> list[Regime]:
    return list(dict.fromkeys(group.regime for group in groups))


def _left(groups: Sequence[CellGroup], finished: Set[str]) -> list[CellGroup]:
    left = [
        CellGroup(group.regime, tuple(cell for cell in group.cells if cell.name not in finished)) for group in groups
    ]
    return [group for group in left if group.cells]
