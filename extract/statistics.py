"""Mean and deviation of each channel over the first images of a split: what int8 tokens are standardised by."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..store.layout import PATCH, PREFIX
from ..store.quantize import channel_statistics
from .backbones.contract import Tokens


class ChannelSums:
    """Sums over the tokens of some layers, batch by batch, in float64."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, str], tuple[int, Tensor, Tensor]] = {}

    def add(self, tokens: Mapping[int, Tokens]) -> None:
        """Add one batch: for each layer, (patch, prefix) tokens, (B, N, dim) each."""
        for layer, of_layer in tokens.items():
            for kind, values in zip((PATCH, PREFIX), of_layer, strict=True):
                if values is not None:
                    x = values.flatten(0, 1).double()
                    n, total, squares = self._sums.get((layer, kind), (0, 0, 0))
                    self._sums[layer, kind] = (n + len(x), total + x.sum(0), squares + x.square().sum(0))

    def statistics(self) -> dict[tuple[int, str], Tensor]:
        """Return (2, dim) float32, mean and deviation, by layer and kind."""
        return {
            key: torch.from_numpy(channel_statistics(n, total.cpu().numpy(), squares.cpu().numpy()))
            for key, (n, total, squares) in self._sums.items()
        }
