"""AIM's running statistics, and its pooling without them."""

from typing import Any

import pytest
import torch

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import build_pooling


def test_statistics_of_half_precision_tokens_are_taken_in_float32() -> None:
    x = (3 + torch.randn(8, 6, 16, generator=torch.Generator().manual_seed(0))).bfloat16()
    pool: Any = build_pooling("aim", dim=16, grid=(2, 3), heads=4, cells=2)
    with torch.autocast("cpu", torch.bfloat16):
        pool(x)
    values = x.double().flatten(0, 1)
    for cell in range(2):
        torch.testing.assert_close(pool.running_mean[cell].double(), 0.1 * values.mean(0), rtol=1e-6, atol=0)
        torch.testing.assert_close(pool.running_var[cell].double(), 0.9 + 0.1 * values.var(0), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("dim", "heads"), [(48, 1), (64, 1), (128, 2), (768, 12)])
def test_zero_heads_are_one_per_64_channels(dim: int, heads: int) -> None:
    pool: Any = build_pooling("aim", dim=dim, grid=(2, 3), heads=0, token_norm="none")
    assert pool.attention(torch.randn(1, 6, dim)).shape == (1, heads, 6) and list(pool.buffers()) == []


def test_heads_that_do_not_divide_the_width_are_refused_even_if_the_width_chose_them() -> None:
    with pytest.raises(InputError, match="aim with heads=3 on tokens 200 wide"):
        build_pooling("aim", dim=200, grid=(2, 3), heads=0)


def test_an_unknown_norm_of_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="unknown setting token_norm of aim 'layer'; known: "):
        build_pooling("aim", dim=96, grid=(2, 3), token_norm="layer")
