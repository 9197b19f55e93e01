"""AIM's running statistics."""

import torch

from tokenprobe.probe.heads import build_pooling


def test_statistics_of_half_precision_tokens_are_taken_in_float32() -> None:
    x = (3 + torch.randn(8, 6, 16, generator=torch.Generator().manual_seed(0))).bfloat16()
    pool = build_pooling("aim", dim=16, grid=(2, 3), heads=4, cells=2)
    with torch.autocast("cpu", torch.bfloat16):
        pool(x)
    values = x.double().flatten(0, 1)
    for cell in range(2):
        torch.testing.assert_close(pool.running_mean[cell].double(), 0.1 * values.mean(0), rtol=1e-6, atol=0)
        torch.testing.assert_close(pool.running_var[cell].double(), 0.9 + 0.1 * values.var(0), rtol=1e-6, atol=0)
