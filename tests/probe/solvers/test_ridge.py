"""Ridge against scikit-learn."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as Oracle
from sklearn.linear_model import RidgeClassifier

from tokenprobe.probe.solvers import Solver
from tokenprobe.probe.solvers.ridge import solve_ridge
from tokenprobe.probe.solvers.spectrum import take_spectrum

PENALTIES = (1e-6, 1e-3, 1.0, 1e3)


def draw(n: int, width: int, n_classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features of very different scales, and labels that depend on them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % n_classes
    centres = torch.randn(n_classes, width, generator=generator)
    features = centres[labels] + torch.randn(n, width, generator=generator)
    return features * torch.logspace(-2, 2, width) + torch.linspace(-50, 50, width), labels


def standardised(features: torch.Tensor) -> np.ndarray:
    x = features.double().numpy()
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)


@pytest.mark.parametrize("n", [200, 10], ids=["tall", "fewer images than features"])
@pytest.mark.parametrize("several", [False, True])
def test_coefficients_are_scikit_learns(n: int, several: bool) -> None:
    features, labels = draw(n, 30, 4)
    targets = torch.stack([labels == 0, labels > 1], dim=1).long() if several else torch.eye(4)[labels].long()
    spectrum = take_spectrum(features, targets if several else labels, targets.shape[1], standardise=True)
    weights = solve_ridge(spectrum, PENALTIES)
    for weight, penalty in zip(weights, PENALTIES, strict=True):
        oracle = Oracle(alpha=n * penalty, solver="svd").fit(standardised(features), targets.double().numpy())
        np.testing.assert_allclose(weight, oracle.coef_, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(spectrum.target, oracle.intercept_, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n_classes", [2, 5])
def test_predictions_are_scikit_learns(n_classes: int, make_solver: Callable[..., Solver]) -> None:
    (features, labels), (others, _) = draw(150, 12, n_classes), draw(90, 12, n_classes, seed=1)
    solver = make_solver("ridge")
    solver.fit(features, labels, n_classes)
    predicted = torch.cat(list(solver.scores(others))).argmax(2)
    x = features.double().numpy()
    others_x = (others.double().numpy() - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)
    for index, penalty in enumerate(solver.penalties):
        oracle = RidgeClassifier(alpha=150 * penalty).fit(standardised(features), labels.numpy())
        assert predicted[:, index].tolist() == oracle.predict(others_x).tolist()


@pytest.mark.parametrize("n", [50, 5], ids=["tall", "fewer images than features"])
def test_a_channel_that_never_varies_has_no_weight(n: int) -> None:
    features, labels = draw(n, 6, 3)
    features[:, 2] = 7
    (weights,) = solve_ridge(take_spectrum(features, labels, 3, standardise=True), [1e-6])
    assert torch.isfinite(weights).all()
    assert weights[..., 2].abs().max() < 1e-9 < weights.abs().max()  # rounding in the eigenvectors


def test_the_end_is_said(make_solver: Callable[..., Solver]) -> None:
    solver = make_solver("ridge")
    solver.fit(*draw(50, 6, 3), 3)
    assert solver.status(0) == "solved"
