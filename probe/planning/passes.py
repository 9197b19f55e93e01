"""Passes that fit into memory: groups that are too large are split, and the parts share as few passes as possible.

All groups of a pass are in memory together and take turns to make a step. The cells of a group are independent, so a
group can be split anywhere. Every additional pass reads all tokens again.
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
"""How often the search for fewer passes halves the memory that one step may take."""

MemoryOf = Callable[[CellGroup], StepMemory]


class Passes(NamedTuple):
    """The groups that train together.

    Attributes:
        passes: the groups of each pass, in the order given. A group that was split appears as its parts.
        notes: lines for people about splits. The list is empty if everything trains at once.
    """

    passes: list[list[CellGroup]]
    notes: list[str]


def make_passes(groups: Sequence[CellGroup], limit: int, memory_of: MemoryOf) -> Passes:
    """Put groups into passes that take no more than `limit` bytes each.

    Few passes matter most, then few parts. The search halves the memory that a step may take, up to `HALVINGS` times,
    and uses the first division with the fewest passes.

    Args:
        groups: all cells, in order.
        limit: bytes.
        memory_of: returns the memory that a group takes.

    Raises:
        InputError: a single cell takes more than `limit`.
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


def divide(group: CellGroup, n_parts: int) -> list[CellGroup]:
    """Split a group's cells in order. The sizes of the parts differ by at most one cell."""
    n_cells = len(group.cells)
    ends = [ceil(n_cells * (index + 1) / n_parts) for index in range(n_parts)]
    return [CellGroup(group.regime, group.cells[start:stop]) for start, stop in zip([0, *ends[:-1]], ends, strict=True)]


def needed(groups: Iterable[CellGroup], memory_of: MemoryOf) -> int:
    """Return the bytes that groups take in one pass.

    Every group keeps its own memory, and one group at a time makes a step. Groups of one regime share its batch, as
    stored and as converted. If they read different arrays, all forms of the batch are in memory at once. Regimes take
    turns.
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
    """Split a group into the fewest equal parts that fit and whose steps take at most `cap`, or into single cells."""
    for n_parts in range(1, len(group.cells) + 1):
        parts = divide(group, n_parts)
        if all(_fits(part, cap, limit, memory_of) for part in (parts[0], parts[-1])):  # the largest and the smallest
            return parts
    if needed(parts[:1], memory_of) > limit:
        raise _too_large(parts[0], needed(parts[:1], memory_of), limit)
    return parts


def _fits(group: CellGroup, cap: int, limit: int, memory_of: MemoryOf) -> bool:
    return needed([group], memory_of) <= limit and memory_of(group).working <= cap


def _pack(groups: Iterable[CellGroup], limit: int, memory_of: MemoryOf) -> list[list[CellGroup]]:
    """Fill one pass after the other, in order. No other division of this order has fewer passes."""
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
        f"{size_text(n_bytes)} of memory, but only {size_text(max(limit, 0))} are free: give a smaller --batch-size, "
        "a head or a layer with fewer tokens, or another --device"
    )
