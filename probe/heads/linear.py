"""The linear probe: a fixed pooling without parameters, before the head's BatchNorm and classifier."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Generator, Tensor

from ...errors import unknown_name
from .pooling import Pooling

ARRAYS = {"cls": ("prefix",), "mean": ("mean",)}


class LinearPooling(Pooling):
    """The class token, or the mean over patch tokens.

    `mean` takes the stored mean as one token, (B, 1, D), and gives the same for all patch tokens, (B, N, D),
    to rounding. `cls` takes the prefix tokens, (B, P, D), and keeps the first.
    """

    name = "linear"
    defaults: ClassVar[dict[str, Any]] = {"pool": "mean"}

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int],
        *,
        pool: str = "mean",
        cells: int | None = None,
        generators: Sequence[Generator | None] | None = None,
    ) -> None:
        """Choose the pooling.

        Args:
            dim: width D of the tokens.
            grid: of the patch tokens; not used.
            pool: "cls" or "mean".
            cells: H, or None for a plain pooling.
            generators: not used; there is nothing to draw.

        Raises:
            InputError: unknown `pool`.
        """
        super().__init__(cells)
        if pool not in ARRAYS:
            raise unknown_name("setting pool of linear", pool, ARRAYS)
        self.kind, self.inputs, self.out_dim = pool, ARRAYS[pool], dim

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        return {}

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        pooled_BD = x_BND[:, 0] if self.kind == "cls" else x_BND.mean(1)
        return pooled_BD[:, None].expand(-1, self.cells or 1, -1)
