"""The spectrum against numpy: both ways, through moments and through the rows."""

import numpy as np
import pytest
import torch

from tokenprobe.probe.solvers import contract
from tokenprobe.probe.solvers.spectrum import take_spectrum

TALL, WIDE = (70, 8), (6, 20)


def draw(n: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    features = torch.randn(n, width, generator=generator) * torch.logspace(-2, 2, width) + 50
    return features, torch.arange(n) % 3


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize(("n", "width"), [TALL, WIDE])
def test_the_spectrum_is_numpys_covariance(n: int, width: int, standardise: bool) -> None:
    features, labels = draw(n, width)
    found = take_spectrum(features, labels, 3, standardise=standardise)
    x, y = features.double().numpy(), np.eye(3)[labels]
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.var, x.var(0), rtol=1e-9)
    np.testing.assert_allclose(found.target, y.mean(0), rtol=1e-12)
    z = (x - x.mean(0)) / (np.sqrt(x.var(0) + 1e-6) if standardise else 1)
    v, e = found.directions.numpy(), found.eigenvalues.numpy()
    assert v.shape == (width, min(n, width)) and (e >= 0).all()
    largest = np.abs(z.T @ z / n).max()
    np.testing.assert_allclose(v * e @ v.T, z.T @ z / n, rtol=0, atol=1e-12 * largest)
    np.testing.assert_allclose(v.T @ v, np.eye(v.shape[1]), rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.cross, (z @ v).T @ (y - y.mean(0)) / n, rtol=0, atol=1e-12 * largest**0.5)


def test_the_directions_of_few_rows_span_them() -> None:
    features, labels = draw(*WIDE)
    found = take_spectrum(features, labels, 3, standardise=False)
    z = features.double() - found.mean
    torch.testing.assert_close(z @ found.directions @ found.directions.T, z, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("n", "width"), [TALL, WIDE])
def test_parts_of_any_size_and_labels_of_both_kinds_give_the_same(
    n: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, labels = draw(n, width)
    whole = take_spectrum(features, labels, 3, standardise=True)
    monkeypatch.setattr(contract, "CHUNK_ELEMENTS", 64)
    told: list[float] = []
    parts = take_spectrum(features, torch.eye(3)[labels].long(), 3, standardise=True, tell=told.append)
    assert sum(told) == pytest.approx(1)
    for name in ("mean", "var", "target", "eigenvalues"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-12)
