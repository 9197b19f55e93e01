"""Passes that fit into memory: groups too large for it are trained in parts, parts in as few passes as it takes.

All groups of a pass are in memory together, and take turns to make a step. Cells of one group do not need one
another, so a group can be divided as one likes; every pass more is another reading of all tokens.
"""

from collections.abc import Callable, Iterable, Sequence
from math import ceil
from typing import NamedTuple

from ...errors import InputError
from ...runtime.text import size_text
from ..grid.cells import CellGroup
from ..grid.regimes import Regime
from .memory import StepMemory

HALVINGS = 6
"""How often what one step may take is halved in the search for fewer passes."""

MemoryOf = Callable[[CellGroup], StepMemory]


class Passes(NamedTuple):
    """What trains together.

    Attributes:
        passes: groups, in the order they came in; those that were split, in parts.
        notes: what was split, for people. None if everything trains at once.
    """

    passes: list[list[CellGroup]]
    notes: list[str]


def make_passes(groups: Sequence[CellGroup], limit: int, memory_of: MemoryOf) -> Passes:
    """Put groups into passes that take no more than `limit` bytes each.

    The fewer passes the better, then the fewer parts: what a step may take is halved for as long as that saves a pass.

    Args:
        groups: all cells, in order.
        limit: bytes.
        memory_of: tells what a group takes.

    Raises:
        InputError: a single cell takes more.
    """
    passes: list[list[CellGroup]] = []
    for halvings in range(HALVINGS + 1):
        parts = [part for group in groups for part in _split(group, limit >> halvings, limit, memory_of)]
        packed = _pack(parts, limit, memory_of)
        if not halvings or len(packed) < len(passes):
            passes = packed
        if len(passes) <= 1:
            break
    return Passes(passes, _notes(groups, passes))


def needed(groups: Iterable[CellGroup], memory_of: MemoryOf) -> int:
    """Return the bytes that groups take in one pass.

    Each keeps its own, one at a time makes a step. Groups of one regime share its batch as stored and as converted;
    where they read different arrays, all their forms of the batch are there at once. Regimes take turns.
    """
    kept, of_regime = 0, dict[Regime, list[StepMemory]]()
    for group in groups:
        memory = memory_of(group)
        kept += memory.kept
        of_regime.setdefault(group.regime, []).append(memory)
    return kept + max(map(_step, of_regime.values()), default=0)


def _step(memories: Sequence[StepMemory]) -> int:
    batches = {memory.kinds: memory.batch for memory in memories}
    return sum(batches.values()) + max(memory.working - memory.batch for memory in memories)


def _split(group: CellGroup, cap: int, limit: int, memory_of: MemoryOf) -> list[CellGroup]:
    """Divide a group into the fewest equal parts that fit, and whose steps take at most `cap`, or else into cells."""
    for n_parts in range(1, len(group.cells) + 1):
        parts = _parts(group, n_parts)
        if all(_fits(part, cap, limit, memory_of) for part in (parts[0], parts[-1])):  # the largest and the smallest
            return parts
    if needed(parts[:1], memory_of) > limit:
        raise _too_large(parts[0], needed(parts[:1], memory_of), limit)
    return parts


def _fits(group: CellGroup, cap: int, limit: int, memory_of: MemoryOf) -> bool:
    return needed([group], memory_of) <= limit and memory_of(group).working <= cap


def _parts(group: CellGroup, n_parts: int) -> list[CellGroup]:
    """Divide a group's cells in order, into parts that differ by one cell at most."""
    n_cells = len(group.cells)
    ends = [ceil(n_cells * (index + 1) / n_parts) for index in range(n_parts)]
    return [CellGroup(group.regime, group.cells[start:stop]) for start, stop in zip([0, *ends[:-1]], ends, strict=True)]


def _pack(groups: Iterable[CellGroup], limit: int, memory_of: MemoryOf) -> list[list[CellGroup]]:
    """Fill one pass after the other, in order: no other way of cutting this order into passes has fewer."""
    passes: list[list[CellGroup]] = []
    for group in groups:
        if passes and needed([*passes[-1], group], memory_of) <= limit:
            passes[-1].append(group)
        else:
            passes.append([group])
    return passes


def _notes(groups: Sequence[CellGroup], passes: Sequence[Sequence[CellGroup]]) -> list[str]:
    notes = []
    for group in groups:
        cell, n_parts = group.cells[0], sum(part.cells[0] in group.cells for of_pass in passes for part in of_pass)
        if n_parts > 1:
            of_group = f"{cell.head.label} on layer {cell.layer} ({len(group.cells)} cells)"
            notes.append(f"{of_group} trains in {n_parts} parts")
    if len(passes) > 1:
        notes.append(f"{len(passes)} passes over the tokens")
    return [f"memory: {'; '.join(notes)}"] if notes else []


def _too_large(group: CellGroup, n_bytes: int, limit: int) -> InputError:
    cell, batch_size = group.cells[0], group.regime.batch_size
    return InputError(
        f"one cell of {cell.head.label!r} on layer {cell.layer} with {batch_size} images in a batch takes "
        f"{size_text(n_bytes)} of memory, and {size_text(max(limit, 0))} are there: give a smaller --batch-size, "
        "a head or a layer with fewer tokens, or another --device"
    )
