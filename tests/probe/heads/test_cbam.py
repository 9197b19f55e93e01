"""CBAM's grid, its reduction, and its maximum over channels."""

from itertools import accumulate
from typing import Any

import pytest
import torch
from timm.layers.cbam import CbamModule

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import blocked, build_pooling
from tokenprobe.probe.heads.cbam import channel_maximum


def test_tokens_that_do_not_fill_the_grid_are_refused() -> None:
    pool: Any = build_pooling("cbam", dim=16, grid=(2, 3))
    with pytest.raises(InputError, match=r"cbam for a grid of \(2, 3\) got 7 tokens; build it for the grid"):
        pool(torch.zeros(2, 7, 16))


@pytest.mark.parametrize("dim", [7, 8, 16, 23, 24, 40, 768])
def test_the_channels_of_the_gate_are_reduced_as_in_timm(dim: int) -> None:
    pool: Any = build_pooling("cbam", dim=dim, grid=(2, 3))
    assert pool.fc1_weight.shape[1:] == CbamModule(dim).channel.fc1.weight.shape[:2]


def test_under_autocast_the_gate_is_applied_in_float32() -> None:
    pool: Any = build_pooling("cbam", dim=16, grid=(2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert pool(torch.ones(2, 6, 16, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("budget", [1, 4 * 4 * 6 * 16 * 2, blocked.MAPS_BYTES])
def test_the_maximum_over_channels_and_its_gradient(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    monkeypatch.setattr(blocked, "MAPS_BYTES", budget)
    generator = torch.Generator().manual_seed(0)
    x, gate = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((3, 6, 16), (3, 4, 16)))
    ours, plain = gate.clone().requires_grad_(), gate.clone().requires_grad_()
    found, expected = channel_maximum(x, ours), (plain[:, :, None] * x[:, None]).amax(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    found.sin().sum().backward()
    expected.sin().sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-12, atol=1e-12)


def test_the_gated_tokens_are_never_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted from the allocator's own record."""
    x, gate = torch.randn(32, 50, 64), torch.randn(32, 4, 64)
    monkeypatch.setattr(blocked, "MAPS_BYTES", 2 * 4 * 4 * 50 * 64)  # of two images
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU],
        profile_memory=True,
        acc_events=True,  # else torch 2.11 warns
    ) as profile:
        channel_maximum(x, gate)
    sizes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert 2 * 4 * 4 * 50 * 64 <= max(accumulate(sizes)) < 4 * 32 * 4 * 50 * 64 / 2
