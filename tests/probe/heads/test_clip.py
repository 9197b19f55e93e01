"""CLIP's positions."""

from typing import Any

import pytest
import torch

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import build_pooling


def test_fewer_tokens_than_places_are_refused() -> None:
    pool: Any = build_pooling("clip", dim=16, grid=(2, 3))
    with pytest.raises(InputError, match=r"clip for a grid of \(2, 3\) got 5 tokens; build it for the grid"):
        pool(torch.zeros(2, 5, 16))


def test_positions_tell_patches_apart_and_not_prefix_tokens() -> None:
    x = torch.randn(2, 8, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pool: Any = build_pooling("clip", dim=16, grid=(2, 3), tokens="patch+prefix").double()
    prefix_swapped, patches_swapped = x[:, [1, 0, 2, 3, 4, 5, 6, 7]], x[:, [0, 1, 3, 2, 4, 5, 6, 7]]
    torch.testing.assert_close(pool(prefix_swapped), pool(x), rtol=1e-12, atol=1e-12)
    assert (pool(patches_swapped) - pool(x)).abs().max() > 1e-4


def test_prefix_tokens_have_the_position_zero() -> None:
    """Where all tokens are equal, so is their mean, and only positions tell it and them apart."""
    generator = torch.Generator().manual_seed(0)
    pool: Any = build_pooling("clip", dim=16, grid=(2, 3), tokens="patch+prefix", generators=[generator]).double()
    with torch.no_grad():
        pool.position[:, 0] = 0  # of the mean
        pool.position.mul_(10)
    token = torch.randn(1, 1, 16, dtype=torch.float64, generator=generator)
    maps = pool.attention(token.expand(1, 8, -1))
    of_mean = 1 - maps.sum(-1, keepdim=True)
    torch.testing.assert_close(maps[..., :2], of_mean.expand(-1, -1, 2), rtol=1e-12, atol=1e-12)
    assert ((maps[..., 2:] - of_mean).abs() > 1e-4).all()
