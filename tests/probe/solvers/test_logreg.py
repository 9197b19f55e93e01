"""Logistic regression against scikit-learn's, at tolerances that leave rounding alone."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression as Oracle
from sklearn.multiclass import OneVsRestClassifier

from tokenprobe.probe.solvers import Solver
from tokenprobe.probe.solvers.logreg import LogisticRegression, LogregFit, fit_logreg

STRENGTHS = (1e-4, 1e-1, 1e2)
Make = Callable[..., Solver]


def draw(n: int, width: int, n_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features whose directions vary by factors of a hundred, far from zero, of classes that overlap."""
    generator = torch.Generator().manual_seed(n_classes)
    labels = torch.arange(n) % n_classes
    centres = torch.randn(n_classes, width, generator=generator)
    features = centres[labels] + 2 * torch.randn(n, width, generator=generator)
    mixed = features * torch.logspace(-1, 1, width) @ torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    return mixed + 3, labels


def fit(features: torch.Tensor, labels: torch.Tensor, n_classes: int) -> list[LogregFit]:
    penalties = [1 / strength for strength in STRENGTHS]
    return fit_logreg(features, labels, n_classes, penalties, tolerance=1e-9, max_iterations=1000)


def intercept(found: LogregFit) -> torch.Tensor:
    return found.bias - found.weight @ found.mean


def make_oracle(strength: float) -> Oracle:
    return Oracle(C=strength, solver="newton-cholesky", tol=1e-12, max_iter=1000)


@pytest.mark.parametrize("n_classes", [3, 6])
def test_coefficients_are_scikit_learns(n_classes: int) -> None:
    features, labels = draw(300, 8, n_classes)
    for found, strength in zip(fit(features, labels, n_classes), STRENGTHS, strict=True):
        oracle = make_oracle(strength).fit(features.double().numpy(), labels.numpy())
        np.testing.assert_allclose(found.weight, oracle.coef_, rtol=1e-5, atol=1e-7)
        ours, theirs = (b - b.mean() for b in (intercept(found).numpy(), oracle.intercept_))  # free up to a constant
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_between_two_classes_the_difference_is_penalised_as_scikit_learn_does() -> None:
    features, labels = draw(300, 8, 2)
    for found, strength in zip(fit(features, labels, 2), STRENGTHS, strict=True):
        oracle = make_oracle(strength).fit(features.double().numpy(), labels.numpy())
        np.testing.assert_allclose((found.weight[1] - found.weight[0])[None], oracle.coef_, rtol=1e-5, atol=1e-7)
        ours = (intercept(found)[1] - intercept(found)[0]).item()
        assert ours == pytest.approx(oracle.intercept_[0], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("n_labels", [1, 2, 3])
def test_several_labels_are_scikit_learns_one_versus_rest(n_labels: int) -> None:
    """Two of them too: each has a sigmoid and a penalty of its own, unlike the two classes of a softmax."""
    features, labels = draw(300, 8, 4)
    several = torch.stack([labels == 0, labels > 1, labels % 2 == 0], dim=1).long()[:, :n_labels]
    for found, strength in zip(fit(features, several, n_labels), STRENGTHS, strict=True):
        oracle = OneVsRestClassifier(make_oracle(strength)).fit(features.double().numpy(), several.numpy())
        for index, single in enumerate(oracle.estimators_):
            np.testing.assert_allclose(found.weight[index], single.coef_[0], rtol=1e-5, atol=1e-7)
            assert intercept(found)[index].item() == pytest.approx(single.intercept_[0], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("unit", [True, False])
def test_probabilities_are_scikit_learns_over_the_whole_grid(unit: bool, make_solver: Make) -> None:
    features, labels = draw(200, 6, 3)
    solver = make_solver("logreg", [{"unit": unit}])
    solver.fit(features, labels, 3)
    scores = torch.cat(list(solver.scores(features)))
    x = features.double().numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True) if unit else x
    np.testing.assert_allclose([1 / p for p in solver.penalties], 10 ** np.linspace(-6, 5, 45), rtol=1e-12)
    for index in (0, 12, 24, 36, 44):
        oracle = make_oracle(1 / solver.penalties[index]).fit(x, labels.numpy())
        found = scores[:, index].double().softmax(1)
        np.testing.assert_allclose(found, oracle.predict_proba(x), rtol=0, atol=2e-5)  # the solver stops at 1e-6


def test_classes_without_images_leave_the_others_as_they_are() -> None:
    features, labels = draw(120, 6, 3)
    labels = torch.tensor([1, 3, 4])[labels]
    for found, strength in zip(fit(features, labels, 6), STRENGTHS, strict=True):
        oracle = make_oracle(strength).fit(features.double().numpy(), labels.numpy())
        probabilities = ((features.double() - found.mean) @ found.weight.T + found.bias).softmax(1)
        np.testing.assert_allclose(probabilities[:, [1, 3, 4]], oracle.predict_proba(features.double()), atol=1e-7)
        assert (probabilities[:, [0, 2, 5]] == 0).all()


def test_labels_that_all_or_no_images_have_are_certain() -> None:
    features, labels = draw(120, 6, 3)
    several = torch.stack([labels == 0, labels < 3, labels > 3], dim=1).long()
    for found in fit(features, several, 3):
        probabilities = ((features.double() - found.mean) @ found.weight.T + found.bias).sigmoid()
        assert (probabilities[:, 1] == 1).all() and (probabilities[:, 2] == 0).all()
        alone = fit(features, several[:, :1], 1)[0]
        torch.testing.assert_close(fit(features, several, 3)[0].weight[0], alone.weight[0], rtol=1e-12, atol=1e-14)


def test_a_single_image_with_several_labels_leaves_nothing_to_fit() -> None:
    for found in fit(torch.ones(1, 6), torch.tensor([[1, 0]]), 2):
        assert (found.weight == 0).all() and found.gradient == 0
        assert found.bias.sigmoid().tolist() == [1, 0]


def test_penalties_may_come_in_any_order_and_twice(make_solver: Make) -> None:
    features, labels = draw(100, 5, 3)
    penalties = [0.1, 100.0, 1.0, 0.1]
    given, sorted_ = make_solver("logreg", penalties=penalties), make_solver("logreg", penalties=[100.0, 1.0, 0.1])
    scores = []
    for solver in (given, sorted_):
        solver.fit(features, labels, 3)
        scores.append(torch.cat(list(solver.scores(features))))
    torch.testing.assert_close(scores[0], scores[1][:, [2, 0, 1, 2]], rtol=1e-5, atol=1e-6)


def test_a_fit_that_converged_says_so(make_solver: Make) -> None:
    solver = make_solver("logreg", penalties=[1.0])
    solver.fit(*draw(100, 5, 3), 3)
    text, _, rest = solver.status(0).partition(" in ")
    assert text == "converged"
    assert 1 < int(rest.removesuffix(" iterations")) < 100


def test_a_fit_that_was_stopped_says_how_far_it_came(make_solver: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogisticRegression, "max_iterations", 3)
    features, labels = draw(100, 5, 3)
    solver = make_solver("logreg", [{"unit": False}], penalties=[1e-3])
    solver.fit(features, labels, 3)
    text, gradient = solver.status(0).split(" (gradient ")
    assert text == "not converged in 3 iterations"
    assert 1e-6 < float(gradient.removesuffix(")")) < 1


def test_the_gradient_is_that_of_the_objective() -> None:
    """The status rests on it: against autograd on the plain formula, at a point that is no minimum."""
    features, labels = draw(80, 4, 3)
    found = fit_logreg(features, labels, 3, [2.0], tolerance=1e-9, max_iterations=2)[0]
    x = features.double() - found.mean
    weight, bias = found.weight.clone().requires_grad_(), found.bias.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, labels)
    (loss + 0.5 * 2.0 / 80 * weight.square().sum()).backward()
    eigenvalues, vectors = torch.linalg.eigh(x.T @ x / 80)
    assert weight.grad is not None and bias.grad is not None
    by_u = weight.grad @ vectors / (eigenvalues / 3 + 2.0 / 80).sqrt()
    largest = max(by_u.abs().max().item(), (bias.grad.abs().max() * 3**0.5).item())
    assert found.gradient == pytest.approx(largest, rel=1e-9)
