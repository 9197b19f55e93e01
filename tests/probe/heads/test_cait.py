"""CaiT's unusual start."""

import torch

from tokenprobe.probe.heads import build_pooling


def test_the_output_starts_the_same_for_all_images_and_learning_starts_through_layerscale() -> None:
    x = torch.randn(8, 6, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pool = build_pooling("cait", dim=32, grid=(2, 3), generators=[torch.Generator().manual_seed(0)]).double()
    pooled = pool(x)
    assert (pooled - pooled.mean(0)).abs().max() < 1e-3 * pooled.abs().max()
    (pooled * torch.randn_like(pooled)).sum().backward()
    largest = {name: float(value.grad.abs().max()) for name, value in pool.named_parameters() if value.grad is not None}
    assert min(largest["scale1"], largest["scale2"]) > 1e3 * max(largest["q_weight"], largest["v_weight"])
