"""A group: the cells of one head and regime, trained together as one stacked module."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...runtime.device import computing
from ..batches.token_batch import TokenBatch
from ..batches.token_shape import TokenShape
from ..grid.cells import Cell
from ..heads import Head, build_pooling
from .linear_step import is_linear, set_gradients
from .losses import cell_losses
from .metrics import Counter
from .optim import OPTIMIZERS, clip_cells_
from .replay import Recorder, Replay
from .stopwatch import Stopwatch

PUBLISHED_LR_BATCH = 256
"""Batch size at which the learning rate equals the base rate."""


@dataclass(frozen=True)
class GroupSetup:
    """The training conditions that all cells of a group share.

    Attributes:
        shape: shape of the tokens that the head reads.
        n_classes: number of classes in the data.
        batch_size: images in a step; the learning rate is base lr × batch_size / 256.
        device: the training device.
        precision: "float32"; "bfloat16" or "float16", the type that autocast rounds matrix products to; or "float64",
            everything in double, with the initial weights of float32.
        multi_label: whether labels are (B, C).
        clip_grad: largest norm of a cell's gradient over all its parameters; None leaves gradients as they are.
        class_weights: one per class, for the loss; None counts all images alike.
    """

    shape: TokenShape
    n_classes: int
    batch_size: int
    device: torch.device
    precision: str
    multi_label: bool = False
    clip_grad: float | None = None
    class_weights: tuple[float, ...] | None = None


class Group:
    """H cells on the same batches. No cell affects another.

    Attributes:
        cells: the cells, in the order of the stacked axis.
        head: the stacked head.
    """

    def __init__(self, cells: Sequence[Cell], setup: GroupSetup, recorder: Recorder | None = None) -> None:
        """Draw the initial weights of every cell from its own seed.

        Args:
            cells: cells with the same head, layer and optimizer.
            setup: conditions that all cells share.
            recorder: records and replays steps; shared by groups that take turns. Without it the host launches
                every step kernel by kernel.
        """
        self.cells, self.device = list(cells), setup.device
        self._precision = setup.precision
        self._autocast_dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(setup.precision)
        self.head = _draw_head(cells, setup)
        self._loss_scale, self._clip_grad = _loss_scale(setup), setup.clip_grad
        weights = setup.class_weights
        self._class_weights = None if weights is None else self.head.weight.new_tensor(weights)
        peak_lrs = [(cell.lr or 0.0) * setup.batch_size / PUBLISHED_LR_BATCH for cell in cells]
        self._peak_lr = self.head.weight.new_tensor(peak_lrs)
        decays = self.head.weight.new_tensor([cell.weight_decay or 0.0 for cell in cells])
        self._optimizer = OPTIMIZERS[cells[0].optimizer](self.head.parameters(), decays)
        self._replay = None if recorder is None else Replay(recorder, (self.kinds, self._token_dtype))
        self._alive = torch.ones(len(self.cells), dtype=torch.bool, device=self.device)
        self._find_retired()
        self._loss_sum, self._n_batches = torch.zeros_like(self._peak_lr), 0
        self._best: dict[str, Tensor] = {}
        self._stopwatch = Stopwatch(self.device)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Arrays of the store that the head reads."""
        return self.head.pooling.inputs

    @property
    def seconds(self) -> float:
        """Wall-clock seconds that the device has spent on training steps."""
        return self._stopwatch.seconds

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds that this process has spent on training steps."""
        return self._stopwatch.cpu_seconds

    def train_batch(self, batch: TokenBatch, lr_factor: float) -> None:
        """Make one step for every living cell; the schedule multiplies the peak rates by `lr_factor`."""
        replays = self._replay is not None and self._replay.prepare(batch, self._step)
        with self._stopwatch.running():
            self._optimizer.begin(self._peak_lr * lr_factor)
            self.head.pooling.begin_step(self._optimizer.n_steps)
            if self._replay is not None and replays:
                self._replay.run(batch, self._step)
            else:
                self._step(self._tokens(batch), batch.labels)
        self._n_batches += 1

    def count_batch(self, counter: Counter, batch: TokenBatch) -> None:
        """Count every cell's logits on one batch."""
        tokens = self._tokens(batch)  # outside inference mode: other groups may train on these tokens
        self.head.eval()
        with torch.inference_mode(), computing(self.device, self._precision):
            counter.add(self.head(tokens), batch.labels)

    def take_losses(self) -> list[float]:
        """Return the mean training loss of each cell since the last call, NaN for a retired one."""
        means = self._loss_sum / max(self._n_batches, 1)
        losses: list[float] = torch.where(self._alive, means, torch.nan).tolist()
        self._loss_sum.zero_()
        self._n_batches = 0
        return losses

    def retire(self) -> list[bool]:
        """Stop the cells that have diverged. Call this at the end of an epoch, before `take_losses`.

        A cell has diverged if its loss, or a parameter or buffer, is not finite. This zeroes its parameters, moments
        and statistics; parameters and moments stay zero. Some processors are slow on numbers that are not finite.

        Returns:
            Which cells are alive.
        """
        for value in (self._loss_sum[:, None], *self.head.state_dict().values()):
            self._alive &= value.flatten(1).isfinite().all(1)
        if self._alive.logical_not().sum() > len(self._retired):
            self._find_retired()
        own = [*self._optimizer.moments(), self._loss_sum]
        # All cells use the statistics of shared features.
        own += self.head.parameters() if self.head.pooling.shared else self.head.state_dict().values()
        with torch.no_grad():
            for value in own:
                value[self._retired] = 0
        alive: list[bool] = self._alive.tolist()
        return alive

    def keep_best(self, improved: Sequence[bool]) -> None:
        """Remember the current weights of the cells that improved."""
        mask = torch.tensor(improved, device=self.device)
        for name, value in self.head.state_dict().items():
            if name not in self._best:
                self._best[name] = value.clone()
            self._best[name][mask] = value[mask]

    def best_state(self, index: int) -> dict[str, Tensor]:
        """Return the remembered weights of one cell, without the stacked axis, on the CPU."""
        return {name: value[index].cpu().contiguous() for name, value in self._best.items()}

    def state(self) -> dict[str, Tensor]:
        """Return the state needed to continue exactly: live tensors; write or clone them before the next step."""
        return {
            **{f"head.{name}": value for name, value in self.head.state_dict().items()},
            **{f"optimizer.{name}": value for name, value in self._optimizer.state().items()},
            **{f"best.{name}": value for name, value in self._best.items()},
            "alive": self._alive,
            "loss_sum": self._loss_sum,
            "n_batches": torch.tensor(self._n_batches),
            "seconds": torch.tensor(self.seconds, dtype=torch.float64),
            "cpu_seconds": torch.tensor(self.cpu_seconds, dtype=torch.float64),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state that `state` returned for a group of the same cells."""
        self.head.load_state_dict(_under("head.", state))
        self._optimizer.load_state(_under("optimizer.", state))
        self._best = {name: value.clone().to(self.device) for name, value in _under("best.", state).items()}
        self._alive.copy_(state["alive"])
        self._find_retired()
        self._loss_sum.copy_(state["loss_sum"])
        self._n_batches = int(state["n_batches"])
        self._stopwatch = Stopwatch(self.device, float(state["seconds"]), float(state["cpu_seconds"]))

    def _step(self, tokens_BND: Tensor, labels: Tensor) -> None:
        """Make the step that the optimizer began. It may be recorded, so it reads no number from the device."""
        if not self.head.training:
            self.head.train()
        if self._autocast_dtype is None and self._class_weights is None and is_linear(self.head, labels):
            losses_H = set_gradients(self.head, tokens_BND, labels)
        else:
            losses_H = self._differentiate(tokens_BND, labels)
        self._finish_gradients()
        self._optimizer.apply()
        self._loss_sum += losses_H

    def _differentiate(self, tokens_BND: Tensor, labels: Tensor) -> Tensor:
        """Set the gradients, times the loss scale, by autograd, and return the losses (H,)."""
        self.head.zero_grad()  # a failed recording leaves gradients behind
        with computing(self.device, self._precision):
            logits_BHC = self.head(tokens_BND)
        losses_H = cell_losses(logits_BHC, labels, self._class_weights)
        loss = losses_H.sum()  # of a number: for more, `backward` imports sympy
        with computing(self.device, "float32"):  # autocast is for the forward pass alone
            (loss if self._loss_scale == 1 else self._loss_scale * loss).backward()
        return losses_H.detach()

    def _finish_gradients(self) -> None:
        """Divide the gradients by the loss scale, which is exact, clip them, and keep retired cells unchanged."""
        gradients = [parameter.grad for parameter in self.head.parameters() if parameter.grad is not None]
        if self._loss_scale != 1:
            torch._foreach_div_(gradients, self._loss_scale)
        if self._clip_grad is not None:
            clip_cells_(gradients, self._clip_grad)
        if len(self._retired):
            for gradient in gradients:
                gradient.index_fill_(0, self._retired, 0)

    def _find_retired(self) -> None:
        """Find the retired cells again: a recorded step knows only the cells retired when it was recorded."""
        self._retired = (~self._alive).nonzero()[:, 0]
        if self._replay is not None:
            self._replay.forget()

    @property
    def _token_dtype(self) -> torch.dtype:
        """Type of the tokens that the head reads; under autocast, the rounded type."""
        return self._autocast_dtype or self.head.weight.dtype

    def _tokens(self, batch: TokenBatch) -> Tensor:
        """Return the arrays that the head reads, (B, N, D)."""
        return batch.joined(self.kinds, self._token_dtype)


def _draw_head(cells: Sequence[Cell], setup: GroupSetup) -> Head:
    """Return the stacked head of some cells, each with weights from its own seed."""
    generators = [torch.Generator().manual_seed(cell.seed) for cell in cells]
    spec, shape = cells[0].head, setup.shape
    pooling = build_pooling(
        spec.name, **shape.of_pooling, cells=len(cells), generators=generators, **dict(spec.settings)
    )
    dtype = torch.float64 if setup.precision == "float64" else None
    return Head(pooling, setup.n_classes, generators).to(setup.device, dtype)


def _loss_scale(setup: GroupSetup) -> int:
    """Return the factor that keeps float16 gradients from underflow: a power of two, 1 for other types.

    A loss is a mean over n terms, so a logit's gradient is (softmax - onehot) / n and can fall below float16's 6e-5.
    A factor of about n leaves |softmax - onehot| ≤ 1. The factor never changes. An adaptive one, as in torch's
    `GradScaler`, would be shared by all cells: one cell that overflows would cost its neighbours their step.
    """
    n_terms = setup.batch_size * (setup.n_classes if setup.multi_label else 1)
    return 1 << (n_terms - 1).bit_length() if setup.precision == "float16" else 1


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
