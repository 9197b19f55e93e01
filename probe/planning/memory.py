"""The memory that a training step takes, found without training."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ...runtime.compiler import without_compiler
from ...store.layout import POOLED
from ..batches.layer_set import LayerSet
from ..batches.stream import EVAL_BATCH
from ..batches.token_batch import TokenBatch
from ..batches.token_shape import TokenShape
from ..grid.cells import Cell
from ..training.group import Group, GroupSetup
from ..training.metrics import make_counter
from ..training.replay import Recorder, can_record
from .shadow import Shadows


class StepMemory(NamedTuple):
    """Bytes that a group of cells takes.

    Attributes:
        kept: permanent bytes: parameters, statistics, the optimizer's moments, the best weights so far.
        working: additional bytes at the peak of a step or of scoring a batch, with the batch itself. On a GPU, a
            recorded step and its batch keep their memory during scoring, so there it is the sum for both.
        batch: the part of `working` for the batch, as stored and as converted.
        kinds: arrays in the batch. Groups with the same kinds share the batch.
    """

    kept: int
    working: int
    batch: int = 0
    kinds: tuple[str, ...] = ()


def step_memory(cells: Sequence[Cell], setup: GroupSetup, stored: torch.dtype = torch.float16) -> StepMemory:
    """Make a `Group` of tensors without values, and count the bytes that one step and one scoring take.

    Kernels use extra memory while they run, and so does a stream that makes a batch. Neither is counted.

    Args:
        cells: as `Group` takes them.
        setup: as `Group` takes it. Nothing is allocated on its device.
        stored: type of the tokens in the store. Means and embeddings are always float32.
    """
    decay = max(cell.weight_decay or 0.0 for cell in cells)  # a step computes more if there is any
    alike = replace(cells[0], store="", layers=LayerSet(()), lr=1.0, weight_decay=decay, shots="", seed=0)
    return _measure((alike,) * len(cells), setup, stored, torch.get_default_dtype())


@cache
def _measure(cells: tuple[Cell, ...], setup: GroupSetup, stored: torch.dtype, drawn: torch.dtype) -> StepMemory:
    """Measure a group. The result is cached: a sweep asks again on every layer. `drawn` is the type of new weights."""
    return without_compiler(lambda: _rehearse(cells, setup, stored))


def _rehearse(cells: tuple[Cell, ...], setup: GroupSetup, stored: torch.dtype) -> StepMemory:
    recorder = Recorder() if can_record(setup.device) else None
    with Shadows(setup.device) as shadows:
        group = Group(cells, setup, recorder)
        kept = shadows.now + _n_bytes(group.head.state_dict().values())

        def of_batch(use: Callable[[TokenBatch], None], n_images: int) -> tuple[int, int]:
            """Return the peak bytes of using a batch, and the bytes of the batch itself."""
            batch = _empty_batch(group, setup, n_images, stored)
            shadows.forget_peak()
            use(batch)
            before = shadows.now
            del batch
            return shadows.peak - shadows.now, before - shadows.now

        training, batch = of_batch(lambda batch: group.train_batch(batch, 1.0), setup.batch_size)
        counter = make_counter(setup.n_classes, setup.multi_label)
        scoring, _ = of_batch(lambda batch: group.count_batch(counter, batch), EVAL_BATCH)
        if recorder is None:
            return StepMemory(kept, max(training, scoring), batch, group.kinds)
        static = recorder.batches.n_bytes
        return StepMemory(kept, static + training + scoring, static + batch, group.kinds)


def _empty_batch(group: Group, setup: GroupSetup, n_images: int, stored: torch.dtype) -> TokenBatch:
    arrays = {kind: _tokens(setup.shape, kind, n_images, stored) for kind in group.kinds}
    labels_shape = (n_images, setup.n_classes) if setup.multi_label else (n_images,)
    return TokenBatch(arrays, torch.empty(labels_shape, dtype=torch.int64))


def _tokens(shape: TokenShape, kind: str, n_images: int, stored: torch.dtype) -> Tensor:
    return torch.empty(n_images, *shape.row_shape(kind), dtype=torch.float32 if kind in POOLED else stored)


def _n_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
