"""Sums of tokens, batch by batch, against numpy over all of them."""

import numpy as np
import torch

from tokenprobe.extract.forward import Outputs
from tokenprobe.extract.statistics import ChannelSums


def test_mean_and_deviation_of_each_channel_over_all_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    patch = torch.randn(10, 6, 4, generator=generator) * torch.tensor([1.0, 100.0, 1e-3, 1.0]) + 5
    patch[..., 3] = 2.5  # a channel that never changes
    prefix = torch.randn(10, 1, 4, generator=generator)
    sums = ChannelSums()
    for part in (slice(0, 4), slice(4, 10)):
        sums.add({7: Outputs(patch[part], prefix[part], None), 8: Outputs(patch[part] * 2, None, None)})
    statistics = sums.statistics()
    assert set(statistics) == {(7, "patch"), (7, "prefix"), (8, "patch")}
    for (layer, kind), values in statistics.items():
        tokens = {"patch": patch, "prefix": prefix}[kind].double().numpy().reshape(-1, 4) * (layer - 6)
        expected = np.stack([tokens.mean(0), tokens.std(0)])
        if kind == "patch":
            expected[1, 3] = 1  # nothing to divide by
        np.testing.assert_allclose(values.numpy(), expected, rtol=1e-6)
        assert values.dtype == torch.float32
