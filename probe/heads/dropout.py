"""Dropout whose choices are a function of (cell seed, step): a stacked, a single and a resumed cell drop the same.

A generator would need one state per cell, and a recorded step of a GPU could not advance it. So each choice is a hash
of its place: two rounds of multiplication and shifts (the finaliser of MurmurHash3), on 32-bit numbers.

    S seeds, H cells
"""

from collections.abc import Sequence

import torch
from torch import Tensor

BITS = 0xFFFF_FFFF
FACTORS = 0x85EB_CA6B, 0xC2B2_AE35
STRIDE = 0x9E37_79B9
"""2³² / golden ratio: keys of consecutive seeds and steps lie far apart."""


class SeededDropout(torch.nn.Module):
    """Zeroes a part of the values of each cell, and divides the others by the part that is kept.

    Attributes:
        step: number of the training step, (1,).
        seeds: the cells' different seeds, (S,).
        of_cell: index of each cell's seed, (H,).
    """

    step: Tensor
    seeds: Tensor
    of_cell: Tensor

    def __init__(self, rate: float, seeds: Sequence[int]) -> None:
        """Take the rate, the part to drop, and the seed of each cell."""
        super().__init__()
        self.rate = rate
        unique = sorted(set(seeds))
        for name, value in (
            ("step", torch.zeros(1, dtype=torch.int64)),
            ("seeds", torch.tensor([seed & BITS for seed in unique])),
            ("of_cell", torch.tensor([unique.index(seed) for seed in seeds])),
        ):
            self.register_buffer(name, value, persistent=False)

    def begin_step(self, step: int) -> None:
        """Draw other choices from now on."""
        self.step.fill_(step)

    def forward(self, values_BHX: Tensor) -> Tensor:
        """Return values (B, H, …); as they are outside of training."""
        if not self.training or not self.rate:
            return values_BHX
        n_images, n_cells = values_BHX.shape[:2]
        places_BX = torch.arange(values_BHX[:, 0].numel(), device=values_BHX.device).view(n_images, -1)
        keys_S = _hash(_hash(self.seeds) + self.step * STRIDE)
        choices_BSX = _hash(_hash(places_BX)[:, None] ^ keys_S[:, None])
        kept_BSX = (choices_BSX >= int(self.rate * 2**32)).to(values_BHX.dtype) / (1 - self.rate)
        kept_BHX = kept_BSX.index_select(1, self.of_cell)
        return values_BHX * kept_BHX.view(n_images, n_cells, *values_BHX.shape[2:])


def _hash(numbers: Tensor) -> Tensor:
    """Return well mixed numbers below 2³², one for each of the numbers' lowest 32 bits."""
    numbers = numbers & BITS
    for shift, factor in zip((16, 13), FACTORS, strict=True):
        numbers = ((numbers ^ (numbers >> shift)) * factor) & BITS
    return numbers ^ (numbers >> 16)
