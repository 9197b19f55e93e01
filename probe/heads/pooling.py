"""The base of every pooling: tokens in, one vector per image out, for H stacked cells at once.

H cells share one batch of tokens and nothing else. Every parameter and saved buffer has a leading axis of H. A cell's
output and gradient are the same in a stack as alone.

    B images, N tokens, D width, H cells
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor, nn

from ...errors import InputError, unknown_name

TOKENS = (
    "Tokens read: patch; patch+prefix, with class and register tokens first; or, for stacked layers, cls, mean or "
    "cls+mean, the class token and the mean of each layer."
)
MAPS = "Attention maps; a divisor of the width D."
MLP_RATIO = "Hidden units of the MLP per channel; 1 or more."
NORM = "Norm before the classifier: batch, or none."
"""Descriptions of settings that several poolings share."""


BATCH_NORM_EPS = 1e-6
"""ε of the published protocol's BatchNorm."""


class ClassifierNorm(NamedTuple):
    """The BatchNorm between a pooling and the classifier.

    Attributes:
        eps: added to the variance.
        affine: whether it has a weight and a bias per channel.
    """

    eps: float = BATCH_NORM_EPS
    affine: bool = False


@dataclass(frozen=True)
class PoolingSettings:
    """Settings of a pooling, each field with its default; this base class has none.

    The fields are in the order of a head's label. The first tells heads apart, so that a label always shows it;
    `tokens` is last. A field's annotation describes it: `Annotated[int, "Attention maps."]`.
    """


class Pooling(nn.Module, ABC):
    """Pools the tokens of each image.

    A subclass sets the class attributes and writes `choose_inputs`, `initial` and `pool`, and `set_up` and
    `make_buffers` if it needs them. It has no constructor of its own. docs/heads.md, "Adding one", lists all that a
    new pooling touches. Rules for every pooling:

    * Cells never mix: nothing is drawn, summed or normalised over their axis, and a cell may be NaN.
    * Softmax, statistics, norms and powers are computed in at least float32, and in float64 for tokens in float64.
    * The output is finite if all parameters and statistics of a cell are zero: `Group.retire` zeroes a diverged cell,
      which stays in the stack.
    * A parameter with one axis per cell, (H, n), counts as a bias: LARS gives it no trust ratio and no weight decay.
      A weight vector that should have both is (H, 1, n).
    * No kernel takes much memory for itself. The memory estimate runs `pool` on tensors without values, and sees
      only tensors. It misses the temporaries of `logsumexp`, for example, which are as large as its input.
    * No shape and no branch depends on values, nor, while `torch.compiler.is_exporting()`, on the number of images.

    Attributes:
        name: name in the registry.
        title: short name for tables and figures.
        summary: one sentence about the method.
        source: its publication.
        settings: the defaults on the class, an object's own on the object.
        defaults: every setting and its default value, in the order of the fields of `settings`.
        reference_names: the reference implementation's name of each parameter, and ours.
        reference_buffers: likewise for buffers; None if ours does not need it.
        dim: width D of the tokens.
        grid: (height, width) of the patch tokens, of each layer.
        n_layers: layers whose tokens stand side by side.
        cells: H, or None for a plain pooling.
        out_dim: width of the output.
        inputs: the store's arrays that it reads, joined along the token axis: "prefix", "patch", "mean" or
            "embedding".
        classifier_norm: the BatchNorm of its head; None, without one, if it has a setting `norm` that is "none".
        seeds: of the cells' generators. They also decide what training draws (`begin_step`).
        shared: it has no parameters, so its output is the same for all cells, and `pool` makes it once.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    settings: PoolingSettings = PoolingSettings()
    defaults: ClassVar[Mapping[str, Any]]
    reference_names: Mapping[str, str] = {}
    reference_buffers: Mapping[str, str | None] = {}
    out_dim: int
    inputs: tuple[str, ...]
    classifier_norm: ClassifierNorm | None = ClassifierNorm()
    shared: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """Derive `defaults` from `settings`."""
        super().__init_subclass__()
        cls.defaults = asdict(cls.settings)

    def __init__(
        self,
        settings: PoolingSettings,
        *,
        dim: int,
        grid: tuple[int, int],
        n_layers: int = 1,
        cells: int | None = None,
        generators: Sequence[Generator | None] | None = None,
        draw: bool = True,
    ) -> None:
        """Check the settings, then draw the parameters, one cell after another, then make the buffers.

        Args:
            settings: settings of this pooling's own class.
            dim: width D of the tokens, or of the embedding.
            grid: (height, width) of the patch tokens.
            n_layers: layers whose tokens stand side by side.
            cells: H, or None for a plain pooling.
            generators: one per cell; torch's global one if None.
            draw: False leaves out parameters and buffers, but sets `inputs` and `out_dim`.

        Raises:
            InputError: a setting is unknown, or does not fit `dim` or `grid`; or the pooling needs one layer.
        """
        super().__init__()
        self.settings, self.dim, self.grid, self.n_layers, self.cells = settings, dim, grid, n_layers, cells
        if self._norm_is_off():
            self.classifier_norm = None
        why = self.needs_one_layer()
        if n_layers > 1 and why:
            raise InputError(
                f"head {self.name!r} cannot read the tokens of {n_layers} layers side by side: {why}; "
                "join their channels instead, such as 2+5+8"
            )
        self.inputs, self.out_dim = self.choose_inputs(), dim
        self.set_up()
        if not draw:
            return
        generators = generators or [None] * (cells or 1)
        self.seeds = [
            torch.initial_seed() if generator is None else generator.initial_seed() for generator in generators
        ]
        drawn = [self.initial(generator) for generator in generators]
        for name in drawn[0]:
            self.register_parameter(name, nn.Parameter(torch.stack([cell[name] for cell in drawn])))
        self.make_buffers()

    @abstractmethod
    def choose_inputs(self) -> tuple[str, ...]:
        """Return `inputs`.

        Raises:
            InputError: the settings ask for tokens that do not exist.
        """

    def _norm_is_off(self) -> bool:
        """Return whether the setting `norm`, which not every pooling has, is "none".

        Raises:
            InputError: it is another word than "batch" or "none".
        """
        norm = getattr(self.settings, "norm", "batch")
        if norm not in ("batch", "none"):
            raise unknown_name(f"setting norm of {self.name}", norm, ("batch", "none"))
        return bool(norm == "none")

    def needs_one_layer(self) -> str:
        """Return why the pooling cannot read the tokens of several layers side by side, or "" if it can."""
        return ""

    def set_up(self) -> None:
        """Check the other settings, and set `out_dim` if it is not `dim`.

        Raises:
            InputError: a setting is unknown, or does not fit `dim` or `grid`.
        """

    @abstractmethod
    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """Draw the parameters of one cell, in the published order, with the published initialisation."""

    def make_buffers(self) -> None:
        """Register the buffers, in the order in which a saved head holds them."""

    def begin_step(self, step: int) -> None:
        """Prepare a step of training, counted from 1: whatever it draws is a function of `seeds` and the step."""

    @abstractmethod
    def pool(self, x_BND: Tensor) -> Tensor:
        """Return (B, H, out_dim), or (B, 1, out_dim) if `shared`."""

    def forward(self, x_BND: Tensor) -> Tensor:
        """Pool tokens (B, N, D) to (B, out_dim), or to (B, H, out_dim) if built with `cells=H`."""
        pooled = self.pool(x_BND)
        return pooled.expand(-1, self.cells, -1) if self.cells is not None else pooled[:, 0]

    def keep_statistics(self, width: int) -> None:
        """Make the buffers of a BatchNorm over `width` channels, one row per cell."""
        self.register_buffer("running_mean", torch.zeros(self.cells or 1, width))
        self.register_buffer("running_var", torch.ones(self.cells or 1, width))

    def load_reference(self, state: Mapping[str, Tensor]) -> None:
        """Take weights under the reference implementation's names, for every cell.

        Buffers (running statistics) are optional.

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
            target.data.copy_(value.reshape(target.shape[1:]))  # to every cell


def _squeezed(shape: Sequence[int]) -> list[int]:
    """Return a shape without its axes of length one: a 1×1 convolution is a matrix."""
    return [length for length in shape if length != 1]
