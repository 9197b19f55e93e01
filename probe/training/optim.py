"""Optimizers over stacked cells: every parameter is (H, …), every cell has its own rate, decay and norms.

A cell's step is what the optimizer would do with that cell's slice alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

MOMENTUM = 0.9


class StackedOptimizer(ABC):
    """Updates parameters in place from their gradients, and clears the gradients.

    A step is bound by memory: everything happens in place, in the parameter, the moments and the gradient.

    Attributes:
        MOMENTS: names of what is kept of each parameter.
    """

    MOMENTS: ClassVar[tuple[str, ...]]

    def __init__(self, parameters: Iterable[Tensor], weight_decay: Tensor) -> None:
        """Take the parameters, each (H, …), and the weight decay of each cell, (H,)."""
        self.parameters = list(parameters)
        self.weight_decay = weight_decay
        self.decays = bool(weight_decay.any())
        self.n_steps = 0
        self._moments = {name: [torch.zeros_like(values) for values in self.parameters] for name in self.MOMENTS}

    @torch.no_grad()
    def step(self, lr: Tensor) -> None:
        """Make one step with the learning rates (H,) of the cells."""
        self.n_steps += 1
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                moments = [self._moments[name][index] for name in self.MOMENTS]
                self.update(parameter, parameter.grad, *moments, lr=_per_cell(lr, parameter))
                parameter.grad = None

    @abstractmethod
    def update(self, parameter: Tensor, gradient: Tensor, *moments: Tensor, lr: Tensor) -> None:
        """Update one parameter and its moments, spoiling the gradient; `lr` is shaped to multiply it."""

    def decay(self, parameter: Tensor) -> Tensor:
        """Return the weight decay, shaped to multiply `parameter`."""
        return _per_cell(self.weight_decay, parameter)

    def moments(self) -> list[Tensor]:
        """Return all moments, each (H, …)."""
        return [moment for of_name in self._moments.values() for moment in of_name]

    def state(self) -> dict[str, Tensor]:
        """Return the moments, "NAME.INDEX" of the parameter, and `n_steps`."""
        named = {f"{name}.{i}": moment for name, of_name in self._moments.items() for i, moment in enumerate(of_name)}
        return named | {"n_steps": torch.tensor(self.n_steps)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        for name, moment in self.state().items():
            moment.copy_(state[name])
        self.n_steps = int(state["n_steps"])


class MomentumSGD(StackedOptimizer):
    """SGD with momentum 0.9, as torch.optim.SGD: m <- 0.9 m + g + wd p, p <- p - lr m."""

    MOMENTS = ("momentum",)

    def update(self, parameter: Tensor, gradient: Tensor, *moments: Tensor, lr: Tensor) -> None:
        """See `StackedOptimizer.update`."""
        if self.decays:
            gradient.addcmul_(self.decay(parameter), parameter)
        (momentum,) = moments
        torch.add(gradient, momentum, alpha=MOMENTUM, out=momentum)
        parameter.addcmul_(-lr, momentum)


class LARS(StackedOptimizer):
    """LARS (You, Gitman, Ginsburg 2017, arXiv 1708.03888), as in MAE's linear probing.

    A cell's parameter with two axes or more adds d · 0.001 ||p|| / ||d|| to its momentum, d = g + wd p, or d
    itself if either norm is zero; one with a single axis (a bias) adds g. The rate applies to the momentum.
    """

    MOMENTS, TRUST = ("momentum",), 0.001

    def update(self, parameter: Tensor, gradient: Tensor, *moments: Tensor, lr: Tensor) -> None:
        """See `StackedOptimizer.update`."""
        (momentum,) = moments
        momentum.mul_(MOMENTUM)
        if parameter[0].ndim < 2:
            momentum.add_(gradient)
        else:
            if self.decays:
                gradient.addcmul_(self.decay(parameter), parameter)
            norm, size = _cell_norms(parameter), _cell_norms(gradient)
            trust = torch.where((norm > 0) & (size > 0), self.TRUST * norm / size, torch.ones_like(norm))
            momentum.addcmul_(_per_cell(trust, parameter), gradient)
        parameter.addcmul_(-lr, momentum)


class AdamW(StackedOptimizer):
    """AdamW (arXiv 1711.05101), as torch.optim.AdamW with betas 0.9, 0.999 and eps 1e-8.

    After t steps with moments m and v, a = 1 - 0.9^t and b = 1 - 0.999^t, the step is

        lr (m / a) / (sqrt(v / b) + eps) = lr sqrt(b) / a · m / (sqrt(v) + eps sqrt(b))
    """

    MOMENTS, BETAS, EPS = ("first", "second"), (0.9, 0.999), 1e-8

    def update(self, parameter: Tensor, gradient: Tensor, *moments: Tensor, lr: Tensor) -> None:
        """See `StackedOptimizer.update`."""
        first, second = moments
        first.lerp_(gradient, 1 - self.BETAS[0])
        second.mul_(self.BETAS[1]).addcmul_(gradient, gradient, value=1 - self.BETAS[1])
        unbias_first, unbias_second = (1 - beta**self.n_steps for beta in self.BETAS)
        if self.decays:
            parameter.mul_(1 - lr * self.decay(parameter))
        scratch = torch.sqrt(second, out=gradient).add_(self.EPS * unbias_second**0.5)
        torch.div(first, scratch, out=scratch)
        parameter.addcmul_(-lr * unbias_second**0.5 / unbias_first, scratch)


OPTIMIZERS: Mapping[str, type[StackedOptimizer]] = {"lars": LARS, "sgd": MomentumSGD, "adamw": AdamW}


def _cell_norms(values: Tensor) -> Tensor:
    """Return the Euclidean norm of each cell's slice, (H,)."""
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norms


def _per_cell(values: Tensor, like: Tensor) -> Tensor:
    """Shape (H,) values to multiply an (H, …) tensor."""
    return values.view(-1, *[1] * (like.ndim - 1))
