"""The linear probe: a fixed pooling without parameters, before the head's BatchNorm and classifier."""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...errors import unknown_name
from .pooling import NORM, Pooling, PoolingSettings

ARRAYS = {
    "cls": ("prefix",),
    "mean": ("mean",),
    "cls+mean": ("prefix", "mean"),
    "max": ("patch",),
    "embedding": ("embedding",),
}


@dataclass(frozen=True)
class LinearSettings(PoolingSettings):
    """Settings of the linear probe."""

    pool: Annotated[str, "The vector: cls, mean, cls+mean (2D wide), max or embedding."] = "mean"
    unit: Annotated[bool, "Whether the vector is divided by its norm."] = False
    norm: Annotated[str, NORM] = "batch"


class LinearPooling(Pooling):
    """The class token, the mean over patch tokens, both, the maximum over patch tokens, or the backbone's embedding.

    `mean` takes the stored mean as one token, (B, 1, D); all patch tokens, (B, N, D), give the same up to
    rounding. `cls` takes the prefix tokens, (B, P, D), and keeps the first. `cls+mean` takes the prefix tokens
    and then the stored mean, (B, P+1, D), and joins the first and the last to a vector 2D wide. `max` takes the
    patch tokens, (B, N, D), and keeps the largest value of each channel. `embedding` takes the backbone's own
    embedding as one token, (B, 1, D), D wide itself. With `unit` the vector is divided by its norm.
    """

    name = "linear"
    title = "linear probe"
    summary = "A vector without weights of its own: class token, mean, maximum or embedding."
    source = "common practice"
    settings = LinearSettings()
    shared = True

    def choose_inputs(self) -> tuple[str, ...]:
        """Return the arrays that the setting `pool` needs.

        Raises:
            InputError: unknown `pool`.
        """
        if self.settings.pool not in ARRAYS:
            raise unknown_name("setting pool of linear", self.settings.pool, ARRAYS)
        return ARRAYS[self.settings.pool]

    def needs_one_layer(self) -> str:
        """See `Pooling.needs_one_layer`."""
        return "it reads one vector per image"

    def set_up(self) -> None:
        """See `Pooling.set_up`."""
        self.out_dim = self.dim * len(self.inputs)  # one vector per array

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        return {}

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        pooled_BO = {
            "cls": lambda: x_BND[:, 0],
            "mean": lambda: x_BND.mean(1) if x_BND.shape[1] > 1 else x_BND[:, 0],
            "cls+mean": lambda: torch.cat([x_BND[:, 0], x_BND[:, -1]], dim=1),
            "max": lambda: x_BND.amax(1),
            "embedding": lambda: x_BND[:, 0],
        }[self.settings.pool]()
        if self.settings.unit:
            pooled_BO = F.normalize(pooled_BO.to(torch.promote_types(pooled_BO.dtype, torch.float32)))
        return pooled_BO[:, None]
