"""A pass that ran out of memory goes on as two halves.

Plans estimate memory. Another program may take some of it later, and kernels use memory that no estimate sees. The
cells of a pass are independent, so each half of them goes on alone, from the last scoring that a checkpoint kept.
"""

import gc
from collections.abc import Sequence
from typing import Any

import torch

from ...errors import InputError
from ...runtime.text import counted
from ..grid.cells import CellGroup
from ..planning.passes import divide
from ..planning.plan import Plan

State = dict[str, Any]
"""The state of a pass after a scoring; see `train_pass`."""


def halve(plan: Plan, groups: Sequence[CellGroup], device: torch.device) -> list[list[CellGroup]]:
    """Divide a pass into two with about half of the cells each.

    Raises:
        InputError: the pass is a single cell.
    """
    if sum(len(group.cells) for group in groups) == 1:
        raise _too_large(plan, groups[0], device)
    if len(groups) > 1 and all(len(group.cells) == 1 for group in groups):
        half = len(groups) // 2
        return [list(groups[:half]), list(groups[half:])]
    first, second = list[CellGroup](), list[CellGroup]()
    for group in groups:
        *front, back = divide(group, min(2, len(group.cells)))
        first += front
        second.append(back)
    return [first, second]


def describe_halves(groups: Sequence[CellGroup], device: torch.device, state: State | None) -> str:
    """Return the line that says what happened to a pass."""
    n_cells = counted(sum(len(group.cells) for group in groups), "cell")
    scored = counted(state["scorings"], "scoring") if state is not None else ""
    start = f"go on after {scored}" if state is not None else "start again"
    return f"{device} ran out of memory with {n_cells} in a pass: two passes with half of the cells each {start}"


def part_of(state: State | None, groups: Sequence[CellGroup], part: Sequence[CellGroup]) -> State | None:
    """Return what the state of a pass says about a part of its cells, or None without a state.

    Args:
        state: of the pass.
        groups: of the pass.
        part: groups whose cells are neighbours in a group of the pass.
    """
    if state is None:
        return None
    states = []
    for few in part:
        index, group = next((i, group) for i, group in enumerate(groups) if few.cells[0] in group.cells)
        start = group.cells.index(few.cells[0])
        states.append(_of_cells(state["groups"][index], group, slice(start, start + len(few.cells))))
    return {"scorings": state["scorings"], "groups": states}


def free_unused(device: torch.device) -> None:
    """Give back the memory of a pass that is gone. Its recorded steps refer to their groups, and these to them."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _of_cells(state: State, group: CellGroup, some: slice) -> State:
    """Return the state of some cells of a group. Their part of the group's seconds is by number."""
    names = {cell.name for cell in group.cells[some]}
    share = len(names) / len(group.cells)
    tensors = {
        name: value * share if name.endswith("seconds") else value[some] if value.ndim else value
        for name, value in state["group"].items()
    }
    history = [row for row in state["history"] if row["cell"] in names]
    predicted = None if state["predicted"] is None else state["predicted"][some]
    return {"group": tensors, "trackers": state["trackers"][some], "history": history, "predicted": predicted}


def _too_large(plan: Plan, group: CellGroup, device: torch.device) -> InputError:
    cell, precision = group.cells[0], "" if plan.precision != "float32" else "--amp bfloat16, "
    return InputError(
        f"{device} ran out of memory with one cell of {cell.head.label!r} on layer {cell.layer} and "
        f"{group.regime.batch_size} images in a batch: give a smaller --batch-size, {precision}a head or a layer with "
        "fewer tokens, --cache disk, or another --device"
    )
