"""Optimizers over stacked cells: every parameter is (H, …), every cell has its own rate, decay and norms.

A cell's step equals the step that the optimizer would make on that cell's slice alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import ClassVar

import torch
from torch import Tensor

from .fused_step import can_fuse, momentum_step_

MOMENTUM = 0.9


class StackedOptimizer(ABC):
    """Updates parameters in place from their gradients, and clears the gradients.

    Memory limits the speed of a step, so it works in place, in the parameter, the moments and the gradient. On a GPU
    launches limit it too, so one launch serves all parameters wherever the sums come out the same. A GPU may record a
    step (`replay.py`), so every number that changes from step to step comes from a tensor.

    Attributes:
        MOMENTS: names of the moments kept for each parameter.
        factor: (H,), minus the rate; `begin` sets it and `move` multiplies directions by it.
    """

    MOMENTS: ClassVar[tuple[str, ...]]

    def __init__(self, parameters: Iterable[Tensor], weight_decay: Tensor) -> None:
        """Take the parameters, each (H, …), and the weight decay of each cell, (H,)."""
        self.parameters = list(parameters)
        self.weight_decay, self.factor = weight_decay, torch.zeros_like(weight_decay)
        self.decays = bool(weight_decay.any())
        self.n_steps = 0
        self._moments = {name: [torch.zeros_like(values) for values in self.parameters] for name in self.MOMENTS}

    def step(self, lr: Tensor) -> None:
        """Make one step with the learning rates (H,) of the cells."""
        self.begin(lr)
        self.apply()

    @torch.no_grad()
    def begin(self, lr: Tensor) -> None:
        """Count a step, and put its own numbers into tensors for `apply`."""
        self.n_steps += 1
        torch.neg(lr, out=self.factor)

    @torch.no_grad()
    def apply(self) -> None:
        """Make the step that `begin` began."""
        given = [index for index, parameter in enumerate(self.parameters) if parameter.grad is not None]
        parameters = [self.parameters[index] for index in given]
        if given:
            moments = [[self._moments[name][index] for index in given] for name in self.MOMENTS]
            self.update(parameters, [_gradient(parameter) for parameter in parameters], *moments)
        for parameter in parameters:
            parameter.grad = None

    @abstractmethod
    def update(self, parameters: list[Tensor], gradients: list[Tensor], *moments: list[Tensor]) -> None:
        """Update parameters and their moments; the gradients are overwritten."""

    def add_decay(self, parameters: list[Tensor], gradients: list[Tensor]) -> None:
        """Add the weight decay to the gradients."""
        if self.decays:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                gradient.addcmul_(_per_cell(self.weight_decay, parameter), parameter)

    def move(self, parameters: list[Tensor], directions: list[Tensor]) -> None:
        """Subtract lr × direction."""
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.addcmul_(_per_cell(self.factor, parameter), direction)

    def step_with_momentum(
        self, parameters: list[Tensor], momenta: list[Tensor], gradients: list[Tensor], trusts: Sequence[Tensor | None]
    ) -> None:
        """Step in one pass: m <- 0.9 m + trust · gradient, p <- p - lr m; a trust of (H,), or None for 1."""
        for parameter, momentum, gradient, trust in zip(parameters, momenta, gradients, trusts, strict=True):
            momentum_step_(parameter, momentum, gradient, trust, self.factor, MOMENTUM)

    def moments(self) -> list[Tensor]:
        """Return all moments, each (H, …)."""
        return [moment for of_name in self._moments.values() for moment in of_name]

    def state(self) -> dict[str, Tensor]:
        """Return the moments, "NAME.INDEX" of the parameter, and `n_steps`."""
        named = {f"{name}.{i}": moment for name, of_name in self._moments.items() for i, moment in enumerate(of_name)}
        return named | {"n_steps": torch.tensor(self.n_steps)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state that `state` returned."""
        for name, moment in self.state().items():
            moment.copy_(state[name])
        self.n_steps = int(state["n_steps"])


class MomentumSGD(StackedOptimizer):
    """SGD with momentum 0.9, as torch.optim.SGD: m <- 0.9 m + g + wd p, p <- p - lr m."""

    MOMENTS = ("momentum",)

    def update(self, parameters: list[Tensor], gradients: list[Tensor], *moments: list[Tensor]) -> None:
        """See `StackedOptimizer.update`."""
        (momenta,) = moments
        self.add_decay(parameters, gradients)
        if can_fuse(parameters[0]):
            self.step_with_momentum(parameters, momenta, gradients, [None] * len(parameters))
            return
        for gradient, momentum in zip(gradients, momenta, strict=True):
            torch.add(gradient, momentum, alpha=MOMENTUM, out=momentum)
        self.move(parameters, momenta)


class LARS(StackedOptimizer):
    """LARS (You, Gitman, Ginsburg 2017, arXiv 1708.03888), as in MAE's linear probing.

    A cell's parameter with two axes or more adds d · 0.001 ||p|| / ||d|| to its momentum, d = g + wd p, or d
    itself if either norm is zero; one with a single axis (a bias) adds g. The rate applies to the momentum.
    """

    MOMENTS, TRUST = ("momentum",), 0.001

    def update(self, parameters: list[Tensor], gradients: list[Tensor], *moments: list[Tensor]) -> None:
        """See `StackedOptimizer.update`."""
        (momenta,) = moments
        is_matrix = [parameter[0].ndim > 1 for parameter in parameters]
        matrices, of_matrices = list(compress(parameters, is_matrix)), list(compress(gradients, is_matrix))
        self.add_decay(matrices, of_matrices)
        of_matrix = iter(self._trusts(matrices, of_matrices) if matrices else ())
        trusts = [next(of_matrix) if by_trust else None for by_trust in is_matrix]
        if can_fuse(parameters[0]):
            self.step_with_momentum(parameters, momenta, gradients, trusts)
            return
        torch._foreach_mul_(momenta, MOMENTUM)
        for gradient, momentum, trust in zip(gradients, momenta, trusts, strict=True):
            if trust is None:
                momentum.add_(gradient)
            else:
                momentum.addcmul_(_per_cell(trust, gradient), gradient)
        self.move(parameters, momenta)

    def _trusts(self, parameters: list[Tensor], gradients: list[Tensor]) -> Tensor:
        """Return the factor of each parameter (first axis) and cell."""
        norm, size = (torch.stack([_cell_norms(each) for each in values]) for values in (parameters, gradients))
        return torch.where((norm > 0) & (size > 0), self.TRUST * norm / size, torch.ones_like(norm))


class AdamW(StackedOptimizer):
    """AdamW (arXiv 1711.05101), as torch.optim.AdamW with betas 0.9, 0.999 and eps 1e-8.

    After t steps with moments m and v, a = 1 - 0.9^t and b = 1 - 0.999^t, the step is

        lr (m / a) / (sqrt(v / b) + eps) = lr sqrt(b) / a · m / (sqrt(v) + eps sqrt(b))
    """

    MOMENTS, BETAS, EPS = ("first", "second"), (0.9, 0.999), 1e-8

    def __init__(self, parameters: Iterable[Tensor], weight_decay: Tensor) -> None:
        """See `StackedOptimizer`."""
        super().__init__(parameters, weight_decay)
        self._kept = torch.ones_like(weight_decay)
        self._eps = weight_decay.new_zeros(())

    @torch.no_grad()
    def begin(self, lr: Tensor) -> None:
        """See `StackedOptimizer.begin`; beside the rate, set the decay's factor on p and eps sqrt(b)."""
        super().begin(lr)
        unbias_first, unbias_second = (1 - beta**self.n_steps for beta in self.BETAS)
        torch.mul(self.factor, unbias_second**0.5, out=self.factor).div_(unbias_first)
        self._eps.fill_(self.EPS * unbias_second**0.5)
        if self.decays:
            torch.sub(1, lr * self.weight_decay, out=self._kept)

    def update(self, parameters: list[Tensor], gradients: list[Tensor], *moments: list[Tensor]) -> None:
        """See `StackedOptimizer.update`."""
        firsts, seconds = moments
        torch._foreach_lerp_(firsts, gradients, 1 - self.BETAS[0])
        torch._foreach_mul_(seconds, self.BETAS[1])
        torch._foreach_addcmul_(seconds, gradients, gradients, 1 - self.BETAS[1])
        if self.decays:
            for parameter in parameters:
                parameter.mul_(_per_cell(self._kept, parameter))
        for second, scratch in zip(seconds, gradients, strict=True):
            torch.sqrt(second, out=scratch)
        torch.ops.aten._foreach_add_.Tensor(gradients, self._eps)  # `torch._foreach_add_` would read it on the host
        for first, scratch in zip(firsts, gradients, strict=True):
            torch.div(first, scratch, out=scratch)
        self.move(parameters, gradients)


OPTIMIZERS: Mapping[str, type[StackedOptimizer]] = {"lars": LARS, "sgd": MomentumSGD, "adamw": AdamW}


def clip_cells_(gradients: Sequence[Tensor], most: float) -> None:
    """Scale down each cell's gradients, in place, if their norm over all parameters exceeds `most`.

    The factor is `most` / (norm + 1e-6), at most 1, as in torch's `clip_grad_norm_`.
    """
    squares_H = torch.stack([_cell_norms(gradient) for gradient in gradients]).square().sum(0)
    factor_H = (most / (squares_H.sqrt() + 1e-6)).clamp_max(1)
    for gradient in gradients:
        gradient.mul_(_per_cell(factor_H, gradient))


def _cell_norms(values: Tensor) -> Tensor:
    """Return the Euclidean norm of each cell's slice, (H,)."""
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norms


def _per_cell(values: Tensor, like: Tensor) -> Tensor:
    """Shape (H,) values to multiply an (H, …) tensor."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
