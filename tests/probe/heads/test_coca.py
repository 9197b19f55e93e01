"""CoCa's unread queries."""

from typing import Any

import pytest
import torch

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import build_pooling


def test_only_the_first_query_is_read_and_learns() -> None:
    x = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0))
    pool: Any = build_pooling("coca", dim=16, grid=(2, 3), queries=5)
    pooled = pool(x)
    pooled.sum().backward()
    assert pool.query_bank.grad[0, 0].abs().max() > 0 and not pool.query_bank.grad[0, 1:].any()
    with torch.no_grad():
        pool.query_bank[:, 1:] = 7
    assert torch.equal(pool(x), pooled)


def test_numbers_below_one_are_refused() -> None:
    cases: list[dict[str, Any]] = [{"heads": 0}, {"queries": 0}]
    for settings in cases:
        with pytest.raises(InputError, match=r"coca with heads=\d, queries=\d+: expected 1 or more of each"):
            build_pooling("coca", dim=16, grid=(2, 3), **settings)
