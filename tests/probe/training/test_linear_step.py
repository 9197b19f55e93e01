"""The gradient of linear heads in closed form, against autograd on the plain formula in float64."""

from typing import Any

import pytest
import torch

from tokenprobe.probe.heads import Head, build_pooling
from tokenprobe.probe.training import linear_step
from tokenprobe.probe.training.linear_step import is_linear, set_gradients

B, N, D, C, H = 24, 5, 8, 6, 7
GENERATOR = torch.Generator().manual_seed(0)
X, LABELS = torch.randn(B, N, D, generator=GENERATOR) + 2, torch.randint(C, (B,), generator=GENERATOR)


def make_head(name: str = "linear", cells: int = H, **settings: Any) -> Head:
    generators = [torch.Generator().manual_seed(seed) for seed in range(cells)]
    pooling = build_pooling(name, dim=D, grid=(1, N), cells=cells, generators=generators, **settings)
    return Head(pooling, C, generators)


@pytest.mark.parametrize("cells", [1, H])
@pytest.mark.parametrize("cached", [1, 2 * B * C, 1 << 18], ids=["one cell", "two cells", "all cells"])
@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_gradients_and_losses_are_autograds(
    pool: str, norm: str, cached: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_step, "CACHED", cached)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    head = make_head(cells=cells, pool=pool, norm=norm).train()
    losses = set_gradients(head, X, LABELS)
    assert head.weight.grad is not None and head.bias.grad is not None
    pooled = X.double().mean(1) if pool == "mean" else X.double().amax(1)
    normed = (pooled - pooled.mean(0)) / (pooled.var(0, unbiased=False) + 1e-6).sqrt()
    z = normed if norm == "batch" else pooled
    for cell in range(cells):
        weight, bias = (each[cell].detach().double().requires_grad_() for each in (head.weight, head.bias))
        loss = torch.nn.functional.cross_entropy(z @ weight.T + bias, LABELS)
        loss.backward()
        torch.testing.assert_close(losses[cell].double(), loss.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(head.weight.grad[cell].double(), weight.grad, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(head.bias.grad[cell].double(), bias.grad, rtol=1e-5, atol=1e-6)
    if norm == "batch":
        torch.testing.assert_close(head.running_mean, (0.1 * pooled.mean(0)).float().expand(cells, -1))


def test_a_label_that_is_certain_costs_nothing_and_a_cell_that_is_not_finite_stays_alone() -> None:
    head = make_head(cells=3).train()
    with torch.no_grad():
        head.weight[0], head.bias[0] = 0, 1000 * torch.nn.functional.one_hot(torch.tensor(2), C).float()
        head.weight[1] = torch.nan
    losses = set_gradients(head, X, torch.full((B,), 2))
    assert head.weight.grad is not None
    assert losses[0] == 0 and head.weight.grad[0].abs().max() == 0
    assert losses[1].isnan() and head.weight.grad[1].isnan().all()
    assert losses[2].isfinite() and head.weight.grad[2].isfinite().all()


def test_it_serves_poolings_without_weights_and_one_label_per_image() -> None:
    linear = make_head()
    assert is_linear(linear, LABELS) and is_linear(make_head(norm="none"), LABELS)
    assert not is_linear(linear, torch.zeros(B, C))
    assert not is_linear(make_head("ep", queries=2), LABELS)
    norm = linear.pooling.classifier_norm
    assert norm is not None
    linear.pooling.classifier_norm = norm._replace(affine=True)
    assert not is_linear(linear, LABELS)
