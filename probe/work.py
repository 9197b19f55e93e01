"""What is left to do on one layer, or several joined: which cells, in which passes over the tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ..store.layout import PATCH
from .budget import make_passes
from .course import Course, in_step
from .grid import CellGroup, layers_text
from .memory import StepMemory, available_memory, step_memory
from .plan import Plan, head_inputs
from .results import Run

USABLE = 0.8
"""Part of the memory that is free which passes may plan with: allocators waste some."""


@dataclass(frozen=True)
class Work:
    """The cells of one layer that a run lacks. False if there are none.

    Attributes:
        plan: of the store.
        layers: indices.
        solver_groups: cells that are not trained by steps.
        passes: cells that are, by pass.
        notes: what was split to fit into memory.
    """

    plan: Plan
    layers: tuple[int, ...]
    solver_groups: Sequence[CellGroup]
    passes: Sequence[Sequence[CellGroup]]
    notes: Sequence[str]

    def __bool__(self) -> bool:
        return bool(self.groups)

    @property
    def label(self) -> str:
        """The layers as text."""
        return layers_text(self.layers)

    @property
    def groups(self) -> list[CellGroup]:
        """All groups."""
        return [*self.solver_groups, *(group for groups in self.passes for group in groups)]

    @property
    def n_cells(self) -> int:
        """Cells to fit."""
        return sum(len(group.cells) for group in self.groups)

    @property
    def n_scorings(self) -> int:
        """How often a pass is scored, over all passes."""
        return sum(len(groups[0].course.scored) for groups in self.passes)

    @property
    def courses(self) -> list[Course]:
        """What the cells are trained on."""
        return list(dict.fromkeys(group.course for group in self.groups))

    @property
    def kinds(self) -> list[str]:
        """Arrays that some head reads."""
        shape, heads = self.plan.shape(self.layers), {cell.head for group in self.groups for cell in group.cells}
        return sorted({kind for head in heads for kind in head_inputs(head, shape)})


def make_work(plan: Plan, layers: tuple[int, ...], run: Run) -> Work:
    """Find the cells that a run lacks, and pack them into passes that fit into memory.

    Raises:
        InputError: a single cell does not fit.
    """
    solver_groups = [left for course in plan.courses for left in _left(plan.solver_groups(layers, course), run)]
    passes: list[Sequence[CellGroup]] = []
    notes: list[str] = []
    for courses in in_step(plan.courses):
        groups = [left for course in courses for left in _left(plan.groups(layers, course), run)]
        packed = make_passes(groups, room_for_training(plan, layers), partial(memory_of, plan))
        passes += packed.passes
        notes += packed.notes
    return Work(plan, layers, solver_groups, passes, notes)


def room_for_training(plan: Plan, layers: tuple[int, ...]) -> int:
    """Return the bytes that a pass may take beside the tokens that are kept."""
    on_device = "gpu" if plan.device.type == "cuda" else "ram"
    if not any(PATCH in head_inputs(head, plan.shape(layers)) for head in plan.heads):
        return int(USABLE * available_memory(plan.device))  # no patch token is read
    places, sizes = plan.places(layers, plan.courses), plan.sizes(layers, plan.courses)
    kept = sum(n_bytes for name, n_bytes in sizes.items() if places[name] == on_device)
    return int(USABLE * available_memory(plan.device)) - kept


def memory_of(plan: Plan, group: CellGroup) -> StepMemory:
    """Return the bytes that a group keeps, and those that a step of it takes beside."""
    return step_memory(
        group.cells,
        plan.input_shape(group.cells[0]),
        plan.data.n_classes,
        batch_size=group.course.batch_size,
        device=plan.device,
        precision=plan.precision,
        multi_label=plan.data.multi_label,
        stored=plan.token_dtype,
    )


def _left(groups: Sequence[CellGroup], run: Run) -> list[CellGroup]:
    left = [CellGroup(group.course, tuple(cell for cell in group.cells if not run.has(cell.name))) for group in groups]
    return [group for group in left if group.cells]
