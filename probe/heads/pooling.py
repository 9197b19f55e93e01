"""What every pooling is: tokens in, one vector an image out, for H stacked cells at once.

H cells share one batch of tokens and nothing else. Every parameter and buffer has a leading axis of H; what one
cell computes, and the gradient it gets, is what it would compute alone.

    B images, N tokens, D width, H cells
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from ...errors import InputError


class Pooling(nn.Module, ABC):
    """Pools the tokens of each image.

    A subclass sets the class attributes, checks its settings, sets `out_dim`, and calls `draw_cells`.

    Attributes:
        name: in the registry.
        defaults: every setting and its default value, the one that tells heads apart first.
        reference_names: the reference implementation's name of each parameter, and ours.
        reference_buffers: likewise for buffers; None where ours has no need of it.
        out_dim: width of the output.
        inputs: the store's arrays that it reads, joined along the token axis: "prefix", "patch", "mean" or
            "embedding".
        shared: it has no parameters, so its output is the same for all cells, and `pool` makes it once.
    """

    name: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]]
    reference_names: Mapping[str, str] = {}
    reference_buffers: Mapping[str, str | None] = {}
    out_dim: int
    inputs: tuple[str, ...] = ("patch",)
    shared: ClassVar[bool] = False

    def __init__(self, cells: int | None) -> None:
        """Prepare a pooling of `cells` stacked cells, or a plain one if None."""
        super().__init__()
        self.cells = cells

    @abstractmethod
    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """Draw the parameters of one cell, in the published order, with the published initialisation."""

    @abstractmethod
    def pool(self, x_BND: Tensor) -> Tensor:
        """Return (B, H, out_dim), or (B, 1, out_dim) if `shared`."""

    def forward(self, x_BND: Tensor) -> Tensor:
        """Pool tokens (B, N, D) to (B, out_dim), or to (B, H, out_dim) if built with `cells=H`."""
        pooled = self.pool(x_BND)
        return pooled.expand(-1, self.cells, -1) if self.cells is not None else pooled[:, 0]

    def draw_cells(self, generators: Sequence[Generator | None] | None) -> None:
        """Make the parameters: one generator a cell, or torch's global one for all."""
        drawn = [self.initial(generator) for generator in generators or [None] * (self.cells or 1)]
        for name in drawn[0]:
            self.register_parameter(name, nn.Parameter(torch.stack([cell[name] for cell in drawn])))

    def keep_statistics(self, width: int) -> None:
        """Make the buffers of a BatchNorm over `width` channels, one row a cell."""
        self.register_buffer("running_mean", torch.zeros(self.cells or 1, width))
        self.register_buffer("running_var", torch.ones(self.cells or 1, width))

    def load_reference(self, state: Mapping[str, Tensor]) -> None:
        """Take weights under the reference implementation's names, for every cell.

        Buffers (running statistics) may be among them, or not.

        Raises:
            InputError: a weight is missing, unknown or of another size.
        """
        names = {**self.reference_buffers, **self.reference_names}
        if not set(self.reference_names) <= set(state) <= set(names):
            raise InputError(
                f"reference weights of {self.name!r}: expected {sorted(self.reference_names)}, found {sorted(state)}"
            )
        targets = dict(self.named_parameters()) | dict(self.named_buffers())
        for theirs, value in state.items():
            ours = names[theirs]
            if ours is None:
                continue
            target = targets[ours]
            if _squeezed(value.shape) != _squeezed(target.shape[1:]):
                raise InputError(
                    f"reference weight {theirs!r} of {self.name!r} is {tuple(value.shape)}, "
                    f"expected {tuple(target.shape[1:])}"
                )
            target.data.copy_(value.reshape(target.shape[1:]).expand_as(target))


def _squeezed(shape: Sequence[int]) -> list[int]:
    """Return a shape without its axes of length one: a 1×1 convolution is a matrix."""
    return [length for length in shape if length != 1]
