"""The linear probe: a fixed pooling without parameters, before the head's BatchNorm and classifier."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...errors import unknown_name
from .pooling import Pooling

ARRAYS = {
    "cls": ("prefix",),
    "mean": ("mean",),
    "cls+mean": ("prefix", "mean"),
    "max": ("patch",),
    "embedding": ("embedding",),
}


class LinearPooling(Pooling):
    """The class token, the mean over patch tokens, both, the maximum over patch tokens, or the backbone's embedding.

    `mean` takes the stored mean as one token, (B, 1, D), and gives the same for all patch tokens, (B, N, D),
    to rounding. `cls` takes the prefix tokens, (B, P, D), and keeps the first. `cls+mean` takes the prefix tokens
    and then the stored mean, (B, P+1, D), and joins the first and the last to a vector 2D wide. `max` takes the
    patch tokens, (B, N, D), and keeps the largest value of each channel. `embedding` takes the backbone's own
    embedding as one token, (B, 1, D), D wide itself. With `unit` the vector is divided by its norm.
    """

    name = "linear"
    defaults: ClassVar[dict[str, Any]] = {"pool": "mean", "unit": False}
    shared = True

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int],
        *,
        pool: str = "mean",
        unit: bool = False,
        cells: int | None = None,
        generators: Sequence[Generator | None] | None = None,
    ) -> None:
        """Choose the pooling.

        Args:
            dim: width D of the tokens, or of the embedding.
            grid: of the patch tokens; not used.
            pool: "cls", "mean", "cls+mean", "max" or "embedding".
            unit: give the vector length one.
            cells: H, or None for a plain pooling.
            generators: not used; there is nothing to draw.

        Raises:
            InputError: unknown `pool`.
        """
        super().__init__(cells)
        if pool not in ARRAYS:
            raise unknown_name("setting pool of linear", pool, ARRAYS)
        self.kind, self.unit, self.inputs = pool, unit, ARRAYS[pool]
        self.out_dim = 2 * dim if pool == "cls+mean" else dim

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        return {}

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        pooled_BO = {
            "cls": lambda: x_BND[:, 0],
            "mean": lambda: x_BND.mean(1),
            "cls+mean": lambda: torch.cat([x_BND[:, 0], x_BND[:, -1]], dim=1),
            "max": lambda: x_BND.amax(1),
            "embedding": lambda: x_BND[:, 0],
        }[self.kind]()
        if self.unit:
            pooled_BO = F.normalize(pooled_BO.to(torch.promote_types(pooled_BO.dtype, torch.float32)))
        return pooled_BO[:, None]
