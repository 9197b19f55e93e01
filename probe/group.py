"""A group: the cells of one head on one layer, trained together as one stacked module."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from ..store.layout import LayerShape
from .grid import PUBLISHED_LR_BATCH, Cell
from .heads import Head, build_pooling
from .metrics import AccuracyCounter
from .optim import OPTIMIZERS


class Group:
    """H cells on the same batches. What one cell does never reaches another.

    Attributes:
        cells: the cells, in the order of the stacked axis.
        head: the stacked head.
        seconds: spent in training steps.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        shape: LayerShape,
        n_classes: int,
        *,
        batch_size: int,
        device: torch.device,
        precision: str,
    ) -> None:
        """Draw the initial weights of every cell from its own seed.

        Args:
            cells: of one head, layer and optimizer.
            shape: of the layer's tokens.
            n_classes: of the data.
            batch_size: images in a step; the learning rate is base lr × batch_size / 256.
            device: where to train.
            precision: "float32", or what matrix products are rounded to under autocast.
        """
        self.cells, self.device, self.precision = list(cells), device, precision
        generators = [torch.Generator().manual_seed(cell.seed) for cell in cells]
        spec = cells[0].head
        pooling = build_pooling(
            spec.name,
            dim=shape.dim,
            grid=shape.grid,
            cells=len(self.cells),
            generators=generators,
            **dict(spec.settings),
        )
        self.head = Head(pooling, n_classes, generators).to(device)
        self._peak_lr = torch.tensor([cell.lr * batch_size / PUBLISHED_LR_BATCH for cell in cells], device=device)
        decays = torch.tensor([cell.weight_decay for cell in cells], device=device)
        self._optimizer = OPTIMIZERS[cells[0].optimizer](self.head.parameters(), decays)
        self._loss_sum, self._n_batches = torch.zeros(len(self.cells), device=device), 0
        self._best: dict[str, Tensor] = {}
        self.seconds = 0.0

    @property
    def kinds(self) -> tuple[str, ...]:
        """Arrays of the store that the head reads."""
        return self.head.pooling.inputs

    def train_batch(self, arrays: Mapping[str, Tensor], labels_B: Tensor, lr_factor: float) -> None:
        """Make one step of every cell; `lr_factor` is the schedule's factor on the peak rates."""
        start = time.perf_counter()
        self.head.train()
        with self._autocast():
            logits_BHC = self.head(self._inputs(arrays))
        losses_H = cell_losses(logits_BHC, labels_B)
        losses_H.sum().backward()
        self._optimizer.step(self._peak_lr * lr_factor)
        self._loss_sum += losses_H.detach()
        self._n_batches += 1
        self.seconds += time.perf_counter() - start

    def count_batch(self, counter: AccuracyCounter, arrays: Mapping[str, Tensor], labels_B: Tensor) -> None:
        """Count the hits of every cell on one batch."""
        self.head.eval()
        with torch.inference_mode(), self._autocast():
            counter.add(self.head(self._inputs(arrays)), labels_B)

    def take_losses(self) -> list[float]:
        """Return the mean training loss of each cell since the last call."""
        losses = (self._loss_sum / max(self._n_batches, 1)).tolist()
        self._loss_sum.zero_()
        self._n_batches = 0
        return losses

    def keep_best(self, improved: Sequence[bool]) -> None:
        """Remember the present weights of the cells that improved."""
        mask = torch.tensor(improved, device=self.device)
        for name, value in self.head.state_dict().items():
            if name not in self._best:
                self._best[name] = value.clone()
            self._best[name][mask] = value[mask]

    def best_state(self, index: int) -> dict[str, Tensor]:
        """Return the remembered weights of one cell, without the stacked axis, on the CPU."""
        return {name: value[index].cpu().contiguous() for name, value in self._best.items()}

    def _inputs(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """Join the arrays that the head reads along the token axis, (B, N, D), rounded for autocast."""
        parts = [arrays[kind] if arrays[kind].ndim == 3 else arrays[kind][:, None] for kind in self.kinds]
        joined = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        return joined if self.precision == "float32" else joined.to(getattr(torch, self.precision))

    def _autocast(self) -> AbstractContextManager[object]:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.precision))


def cell_losses(logits_BHC: Tensor, labels_B: Tensor) -> Tensor:
    """Return the cross-entropy of each cell, (H,), meaned over the batch, in at least float32."""
    n_images, n_cells, _ = logits_BHC.shape
    logits_XC = logits_BHC.transpose(0, 1).flatten(0, 1)  # a view: the head makes them cell by cell
    logits_XC = logits_XC.to(torch.promote_types(logits_XC.dtype, torch.float32))
    losses_X = F.cross_entropy(logits_XC, labels_B.repeat(n_cells), reduction="none")
    return losses_X.view(n_cells, n_images).mean(1)
