"""CBAM's grid, and its maximum over channels."""

import pytest
import torch

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import build_pooling, folded
from tokenprobe.probe.heads.cbam import channel_maximum


def test_tokens_that_do_not_fill_the_grid_are_refused() -> None:
    pool = build_pooling("cbam", dim=16, grid=(2, 3))
    with pytest.raises(InputError, match=r"cbam for a grid of \(2, 3\) got 7 tokens; build it for the grid"):
        pool(torch.zeros(2, 7, 16))


@pytest.mark.parametrize("budget", [1, 4 * 4 * 6 * 16 * 2, folded.MAPS_BYTES])
def test_the_maximum_over_channels_and_its_gradient(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    monkeypatch.setattr(folded, "MAPS_BYTES", budget)
    generator = torch.Generator().manual_seed(0)
    x, gate = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((3, 6, 16), (3, 4, 16)))
    ours, plain = gate.clone().requires_grad_(), gate.clone().requires_grad_()
    found, expected = channel_maximum(x, ours), (plain[:, :, None] * x[:, None]).amax(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    found.sin().sum().backward()
    expected.sin().sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-12, atol=1e-12)
