"""A group: the cells of one head on one layer, trained together as one stacked module."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..store.layout import LayerShape
from .grid import PUBLISHED_LR_BATCH, Cell
from .heads import Head, build_pooling
from .metrics import Counter
from .optim import OPTIMIZERS
from .tokens import TokenBatch

FLOAT16_SCALE = 2.0**10
"""On the loss under float16, so that small gradients do not vanish: a power of two, so that nothing is rounded, and
fixed, since one that adapts to overflows would couple the cells."""


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
        multi_label: bool = False,
    ) -> None:
        """Draw the initial weights of every cell from its own seed.

        Args:
            cells: of one head, on the same layers, with the same optimizer.
            shape: of the tokens.
            n_classes: of the data.
            batch_size: images in a step; the learning rate is base lr × batch_size / 256.
            device: where to train.
            precision: "float32", or what matrix products are rounded to under autocast.
            multi_label: whether images have several labels: a sigmoid for each class instead of a softmax.
        """
        self.cells, self.device, self.precision, self.multi_label = list(cells), device, precision, multi_label
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
        rates = [(cell.lr or 0) * batch_size / PUBLISHED_LR_BATCH for cell in cells]
        self._peak_lr = torch.tensor(rates, device=device)
        decays = torch.tensor([cell.weight_decay or 0 for cell in cells], dtype=self._peak_lr.dtype, device=device)
        self._optimizer = OPTIMIZERS[cells[0].optimizer](self.head.parameters(), decays)
        self._loss_sum, self._n_batches = torch.zeros(len(self.cells), device=device), 0
        self._alive = torch.ones(len(self.cells), dtype=torch.bool, device=device)
        self._best: dict[str, Tensor] = {}
        self.seconds = 0.0

    @property
    def kinds(self) -> tuple[str, ...]:
        """Arrays of the store that the head reads."""
        return self.head.pooling.inputs

    def train_batch(self, batch: TokenBatch, lr_factor: float) -> None:
        """Make one step of every cell; `lr_factor` is the schedule's factor on the peak rates."""
        start = time.perf_counter()
        self.head.train()
        with self._autocast():
            logits_BHC = self.head(self._inputs(batch))
        losses_H = (label_losses if self.multi_label else cell_losses)(logits_BHC, batch.labels)
        scale = FLOAT16_SCALE if self.precision == "float16" else 1.0
        (losses_H.sum() * scale).backward()
        if scale != 1:
            for parameter in self.head.parameters():
                if parameter.grad is not None:
                    parameter.grad /= scale
        self._optimizer.step(self._peak_lr * lr_factor)
        self._loss_sum += losses_H.detach()
        self._n_batches += 1
        self.seconds += time.perf_counter() - start

    def count_batch(self, counter: Counter, batch: TokenBatch) -> None:
        """Score every cell on one batch."""
        self.head.eval()
        with torch.inference_mode(), self._autocast():
            counter.add(self.head(self._inputs(batch)), batch.labels)

    def take_losses(self) -> list[float]:
        """Return the mean training loss of each cell since the last call."""
        losses: list[float] = (self._loss_sum / max(self._n_batches, 1)).tolist()
        self._loss_sum.zero_()
        self._n_batches = 0
        return losses

    @torch.no_grad()
    def retire(self) -> list[bool]:
        """Stop every cell whose loss, or any of whose weights, is not finite any more; return which go on.

        All of a stopped cell is zero from then on, and stays so: it costs what it did, and disturbs nobody.
        """
        finite = torch.isfinite(self._loss_sum)
        for value in self.head.state_dict().values():
            finite &= torch.isfinite(value).flatten(1).all(1)
        self._alive &= finite
        stopped = ~self._alive
        for value in (*self.head.state_dict().values(), *self._optimizer.moments):
            value[stopped] = 0
        self._peak_lr[stopped] = 0
        alive: list[bool] = self._alive.tolist()
        return alive

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

    def state(self) -> dict[str, Any]:
        """Return all that decides how the cells go on: tensors and plain values."""
        return {
            "head": self.head.state_dict(),
            "moments": self._optimizer.moments,
            "n_steps": self._optimizer.n_steps,
            "best": self._best,
            "alive": self._alive,
            "peak_lr": self._peak_lr,
            "seconds": self.seconds,
        }

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state` gave after `take_losses`, on any device."""
        self.head.load_state_dict(state["head"])
        for moment, value in zip(self._optimizer.moments, state["moments"], strict=True):
            moment.copy_(value)
        self._optimizer.n_steps = state["n_steps"]
        self._best = {name: value.to(self.device) for name, value in state["best"].items()}
        self._alive, self._peak_lr = state["alive"].to(self.device), state["peak_lr"].to(self.device)
        self.seconds = state["seconds"]

    def _inputs(self, batch: TokenBatch) -> Tensor:
        """Return the tokens that the head reads, (B, N, D), in the type it computes in."""
        dtype = self.head.weight.dtype if self.precision == "float32" else getattr(torch, self.precision)
        return batch.joined(self.kinds, dtype)

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


def label_losses(logits_BHC: Tensor, labels_BC: Tensor) -> Tensor:
    """Return the binary cross-entropy of each cell, (H,), meaned over the batch and the classes, in at least float32."""
    logits_BHC = logits_BHC.to(torch.promote_types(logits_BHC.dtype, torch.float32))
    targets_BHC = labels_BC[:, None].to(logits_BHC.dtype).expand_as(logits_BHC)
    return F.binary_cross_entropy_with_logits(logits_BHC, targets_BHC, reduction="none").mean((0, 2))
