"""DOLG's features: their precision, and those of length zero."""

from typing import Any

import torch

from tokenprobe.probe.heads import build_pooling

X = torch.randn(3, 6, 16, generator=torch.Generator().manual_seed(0))


def test_features_of_length_zero_give_zero() -> None:
    pool: Any = build_pooling("dolg", dim=16, grid=(2, 3))
    with torch.no_grad():
        pool.bn_weight.zero_()  # and its bias starts at zero, so that every feature is zero
    assert torch.equal(pool(X), torch.zeros(3, 16))


def test_under_autocast_features_are_normed_in_float32() -> None:
    pool: Any = build_pooling("dolg", dim=16, grid=(2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert pool._features(X.bfloat16(), track=False).dtype == torch.float32
