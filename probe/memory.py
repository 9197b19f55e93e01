"""How much memory there is, and how much training takes, found without training."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..store.layout import POOLED, LayerShape
from .grid import Cell
from .group import Group
from .metrics import Counter
from .shadow import Shadows
from .stream import EVAL_BATCH
from .tokens import TokenBatch

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


class StepMemory(NamedTuple):
    """Bytes that a group of cells takes.

    Attributes:
        kept: all the time: parameters, statistics, the optimizer's moments, the best weights so far.
        working: beside that at the peak of a step or of scoring a batch, the batch included.
        batch: the part of `working` that is the batch, as stored and as converted.
        kinds: arrays that the batch is made of. Groups with the same ones share it.
    """

    kept: int
    working: int
    batch: int = 0
    kinds: tuple[str, ...] = ()


def step_memory(
    cells: Sequence[Cell],
    shape: LayerShape,
    n_classes: int,
    *,
    batch_size: int,
    device: torch.device,
    precision: str,
    multi_label: bool = False,
    stored: torch.dtype = torch.float16,
) -> StepMemory:
    """Make a `Group` of tensors without values, and count what it allocates in one step and one scoring.

    What kernels take for themselves while they run is not in it, nor what a stream needs to make the batch.

    Args:
        cells: as the other arguments, what `Group` takes.
        shape: of what the head reads.
        n_classes: of the data.
        batch_size: images in a step.
        device: where to train. Nothing is allocated there.
        precision: of the group.
        multi_label: whether images have several labels.
        stored: type of the tokens as they come from the store; means and embeddings are always float32.
    """
    decay = max(cell.weight_decay or 0.0 for cell in cells)  # whether there is any decides what a step computes
    alike = replace(cells[0], store="", layers=(), lr=1.0, weight_decay=decay, shots="", seed=0)
    types = stored, torch.get_default_dtype()
    return _measure((alike,) * len(cells), shape, n_classes, batch_size, device, precision, multi_label, types)


def available_memory(device: torch.device) -> int:
    """Return the bytes that can be taken on a device, without swapping on the CPU."""
    if device.type != "cuda":
        return available_ram()
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def available_ram() -> int:
    """Return the memory that can be taken without swapping, in bytes."""
    if not MEMINFO.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4  # macOS
    available = _entries(MEMINFO)["MemAvailable:"] * 1024
    limit, used, stat = (CGROUP / f"memory.{name}" for name in ("max", "current", "stat"))
    if limit.exists() and limit.read_text().strip() != "max":  # in a container
        entries = _entries(stat)
        files = entries["active_file"] + entries["inactive_file"]  # pages of files, given back when asked for
        available = min(available, int(limit.read_text()) - int(used.read_text()) + files)
    return available


@cache
def _measure(
    cells: tuple[Cell, ...],
    shape: LayerShape,
    n_classes: int,
    batch_size: int,
    device: torch.device,
    precision: str,
    multi_label: bool,
    types: tuple[torch.dtype, torch.dtype],
) -> StepMemory:
    """Measure a group; a sweep asks for the same on every layer. Types: of the tokens, and of weights as drawn."""
    with Shadows(device) as shadows:
        group = Group(
            cells,
            shape,
            n_classes,
            batch_size=batch_size,
            device=device,
            precision=precision,
            multi_label=multi_label,
        )

        def of_batch(use: Callable[[TokenBatch], None], n_images: int) -> tuple[int, int]:
            """Return what using a batch takes at its peak, and what the batch itself takes."""
            labels_shape = (n_images, n_classes) if multi_label else (n_images,)
            batch = TokenBatch(
                {kind: _tokens(shape, kind, n_images, types[0]) for kind in group.kinds},
                torch.empty(labels_shape, dtype=torch.int64),
            )
            shadows.forget_peak()
            use(batch)
            before = shadows.now
            del batch
            return shadows.peak - shadows.now, before - shadows.now

        training, batch = of_batch(lambda batch: group.train_batch(batch, 1.0), batch_size)
        scoring, _ = of_batch(lambda batch: group.count_batch(_NoCounter(), batch), EVAL_BATCH)
        best = _n_bytes(group.head.state_dict().values())
        return StepMemory(shadows.now + best, max(training, scoring), batch, group.kinds)


def _tokens(shape: LayerShape, kind: str, n_images: int, stored: torch.dtype) -> Tensor:
    return torch.empty(n_images, *shape.row_shape(kind), dtype=torch.float32 if kind in POOLED else stored)


class _NoCounter(Counter):
    """Takes logits, which is what scoring needs memory for."""

    def add(self, logits_BHC: Tensor, labels: Tensor) -> None:
        """Count nothing."""

    def scores(self) -> list[dict[str, float]]:
        """Return nothing."""
        return []


def _n_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _entries(file: Path) -> dict[str, int]:
    """Read lines of a name and a number."""
    return {name: int(value) for name, value, *_ in map(str.split, file.read_text().splitlines())}
