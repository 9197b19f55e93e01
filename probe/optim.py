"""Optimizers over stacked cells: every parameter is (H, …), every cell has its own rate, decay and norms.

A cell's step is what the optimizer would do with that cell's slice alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

MOMENTUM = 0.9


class StackedOptimizer(ABC):
    """Updates parameters in place from their gradients, and clears the gradients."""

    def __init__(self, parameters: Iterable[Tensor], weight_decay: Tensor) -> None:
        """Take the parameters, each (H, …), and the weight decay of each cell, (H,)."""
        self.parameters = list(parameters)
        self.weight_decay = weight_decay
        self.n_steps = 0

    @torch.no_grad()
    def step(self, lr: Tensor) -> None:
        """Make one step with the learning rates (H,) of the cells."""
        self.n_steps += 1
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                self.update(index, parameter, parameter.grad, _per_cell(lr, parameter))
                parameter.grad = None

    @property
    @abstractmethod
    def moments(self) -> list[Tensor]:
        """What is remembered between steps, each (H, …)."""

    @abstractmethod
    def update(self, index: int, parameter: Tensor, gradient: Tensor, lr: Tensor) -> None:
        """Update one parameter; `lr` is shaped to multiply it."""

    def decay(self, parameter: Tensor) -> Tensor:
        """Return the weight decay, shaped to multiply `parameter`."""
        return _per_cell(self.weight_decay, parameter)


class MomentumSGD(StackedOptimizer):
    """SGD with momentum 0.9, as torch.optim.SGD: m <- 0.9 m + g + wd p, p <- p - lr m."""

    def __init__(self, parameters: Iterable[Tensor], weight_decay: Tensor) -> None:
        super().__init__(parameters, weight_decay)
        self.buffers = [torch.zeros_like(parameter) for parameter in self.parameters]

    @property
    def moments(self) -> list[Tensor]:
        """See `StackedOptimizer.moments`."""
        return self.buffers

    def update(self, index: int, parameter: Tensor, gradient: Tensor, lr: Tensor) -> None:
        """See `StackedOptimizer.update`."""
        buffer = self.buffers[index].mul_(MOMENTUM).add_(self.direction(parameter, gradient))
        parameter.sub_(lr * buffer)

    def direction(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        """Return what is added to the momentum buffer."""
        return gradient + self.decay(parameter) * parameter


class LARS(MomentumSGD):
    """LARS (You, Gitman, Ginsburg 2017, arXiv 1708.03888), as in MAE's linear probing.

    A cell's parameter with two axes or more adds d · 0.001 ||p|| / ||d|| to its momentum, d = g + wd p, or d
    itself if either norm is zero; one with a single axis (a bias) adds g. The rate applies to the momentum.
    """

    TRUST = 0.001

    def direction(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        """See `MomentumSGD.direction`."""
        if parameter[0].ndim < 2:
            return gradient
        decayed = gradient + self.decay(parameter) * parameter
        norm, size = _cell_norms(parameter), _cell_norms(decayed)
        trust = torch.where((norm > 0) & (size > 0), self.TRUST * norm / size, torch.ones_like(norm))
        return decayed * _per_cell(trust, parameter)


class AdamW(StackedOptimizer):
    """AdamW (arXiv 1711.05101), as torch.optim.AdamW with betas 0.9, 0.999 and eps 1e-8."""

    BETAS, EPS = (0.9, 0.999), 1e-8

    def __init__(self, parameters: Iterable[Tensor], weight_decay: Tensor) -> None:
        super().__init__(parameters, weight_decay)
        self.first = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.second = [torch.zeros_like(parameter) for parameter in self.parameters]

    @property
    def moments(self) -> list[Tensor]:
        """See `StackedOptimizer.moments`."""
        return [*self.first, *self.second]

    def update(self, index: int, parameter: Tensor, gradient: Tensor, lr: Tensor) -> None:
        """See `StackedOptimizer.update`."""
        first = self.first[index].lerp_(gradient, 1 - self.BETAS[0])
        second = self.second[index].mul_(self.BETAS[1]).addcmul_(gradient, gradient, value=1 - self.BETAS[1])
        unbias_first, unbias_second = (1 - beta**self.n_steps for beta in self.BETAS)
        parameter.mul_(1 - lr * self.decay(parameter))
        parameter.sub_(lr / unbias_first * first / ((second / unbias_second).sqrt() + self.EPS))


OPTIMIZERS: Mapping[str, type[StackedOptimizer]] = {"lars": LARS, "sgd": MomentumSGD, "adamw": AdamW}


def _cell_norms(values: Tensor) -> Tensor:
    """Return the Euclidean norm of each cell's slice, (H,)."""
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norms


def _per_cell(values: Tensor, like: Tensor) -> Tensor:
    """Shape (H,) values to multiply an (H, …) tensor."""
    return values.view(-1, *[1] * (like.ndim - 1))
