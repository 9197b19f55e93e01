"""The shape of the tokens that heads read from a set of layers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...store.layout import MEAN, PREFIX, LayerShape

CLS = "cls"
"""The class token alone, the first of a layer's prefix tokens. A store has no array of it."""


@dataclass(frozen=True)
class TokenShape(LayerShape):
    """The tokens of one layer, of joined layers, or of stacked layers, for one image.

    Attributes:
        n_layers: layers whose tokens stand side by side. `grid` and `n_prefix` are those of each.
    """

    n_layers: int = 1

    @property
    def of_pooling(self) -> dict[str, Any]:
        """What a pooling is built for: width, grid and number of layers, under the names of `build_pooling`."""
        return {"dim": self.dim, "grid": self.grid, "n_layers": self.n_layers}

    def row_shape(self, kind: str) -> tuple[int, ...]:
        """Shape of one image's row of an array as heads read it."""
        if kind == CLS:
            return (self.n_layers, self.dim)
        if kind == MEAN and self.n_layers > 1:
            return (self.n_layers, self.dim)
        first, *rest = super().row_shape(kind)
        return (self.n_layers * first, *rest) if rest else (first,)


def stored_kind(kind: str) -> str:
    """Return the array of the store that an array for heads comes from."""
    return PREFIX if kind == CLS else kind


def stored_kinds(kinds: Iterable[str]) -> list[str]:
    """Return the arrays of the store that arrays for heads come from, each once."""
    return list(dict.fromkeys(map(stored_kind, kinds)))
