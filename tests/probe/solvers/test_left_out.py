"""Scores of training images by fits without them, against refits by scikit-learn and plain loops."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.metrics import log_loss
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from tokenprobe.probe.solvers import SOLVERS, Solver
from tokenprobe.probe.solvers.logreg import LogisticRegression as Logreg

from .test_ridge import draw, standardised

MakeSolver = Callable[..., Solver]
PENALTIES = (1e-6, 1e-3, 1.0, 1e3)


@pytest.mark.parametrize("n", [60, 12], ids=["more images than features", "fewer"])
@pytest.mark.parametrize("several", [False, True], ids=["one label", "several"])
def test_ridge_leaves_out_every_image_as_refits_do(n: int, several: bool, make_solver: MakeSolver) -> None:
    """The n refits keep the mean and variance of all features, and the penalty n λ."""
    features, labels = draw(n, 30, 4)
    targets = torch.stack([labels == 0, labels > 1], dim=1).long() if several else F.one_hot(labels, 4)
    solver, folds = make_solver("ridge", penalties=PENALTIES), torch.arange(n) % 3
    left = solver.left_out(features, targets if several else labels, targets.shape[1], folds)
    z, y = standardised(features), targets.double().numpy()
    for index, penalty in enumerate(PENALTIES):
        for image in range(n):
            rest = np.arange(n) != image
            oracle = Ridge(alpha=n * penalty, solver="svd").fit(z[rest], y[rest])
            np.testing.assert_allclose(left[image, index], oracle.predict(z[[image]])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [60, 12])
def test_ridge_chooses_the_penalty_that_scikit_learn_chooses(n: int, make_solver: MakeSolver) -> None:
    features, labels = draw(n, 30, 4)
    solver = make_solver("ridge")
    left = solver.left_out(features, labels, 4, torch.arange(n))
    losses = solver.losses(left, labels)
    assert losses is not None
    oracle = RidgeCV(alphas=[n * penalty for penalty in solver.decays], store_cv_results=True)
    oracle.fit(standardised(features), F.one_hot(labels, 4).double().numpy())
    errors = oracle.cv_results_.mean(axis=(0, 1)) * 4
    np.testing.assert_allclose(losses, errors, rtol=1e-4)
    assert n * solver.decays[int(np.argmin(losses))] == pytest.approx(oracle.alpha_)


def test_ridge_with_one_image_per_class_would_choose_the_strongest_penalty(make_solver: MakeSolver) -> None:
    """So that this is what such subsets get, where nothing can be left out."""
    features, labels = draw(5, 30, 5)
    solver = make_solver("ridge")
    losses = solver.losses(solver.left_out(features, labels, 5, torch.arange(5)), labels)
    assert losses is not None
    assert losses == sorted(losses, reverse=True) and losses[-1] == pytest.approx(1 + 1 / 4, abs=1e-4)


def test_logreg_is_cross_validated_as_by_scikit_learn(make_solver: MakeSolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Logreg, "tolerance", 1e-9)
    features, labels = draw(30, 8, 3)
    features, folds, penalty = features[:, :4] + 3, torch.arange(30) % 5, 0.5
    solver = make_solver("logreg", penalties=[penalty])
    left = solver.left_out(features, labels, 3, folds)
    losses = solver.losses(left, labels)
    unit = F.normalize(features.double()).numpy()
    oracle = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000)
    split = PredefinedSplit(folds.numpy())
    expected = cross_val_predict(oracle, unit, labels.numpy(), cv=split, method="predict_proba")
    np.testing.assert_allclose(left[:, 0].softmax(1), expected, atol=1e-5)
    assert losses == pytest.approx([log_loss(labels, expected)], rel=1e-4)


@pytest.mark.parametrize("name", ["knn", "ncm", "logreg"])
def test_an_image_without_a_fold_is_in_every_fit_and_is_not_scored(name: str, make_solver: MakeSolver) -> None:
    features, labels = draw(12, 6, 3)
    folds, told = torch.tensor([-1, *range(11)]) % 4 - (torch.arange(12) == 0) * 4, list[float]()
    assert folds[0] == -1 and folds.max() == 3
    changes = {"knn": [{"k": 20}]}.get(name, [{}])
    left = make_solver(name, changes, [1.0]).left_out(features, labels, 3, folds, told.append)
    assert left.shape == (11, 1, 3) and told == [0.25] * 4
    places = torch.arange(12)[1:]
    for fold in range(4):
        kept = folds != fold
        one = make_solver(name, [{"k": int(kept.sum())}] if name == "knn" else [{}], [1.0])
        if name != "knn":
            one.fit(features[kept], labels[kept], 3)
            expected = torch.cat(list(one.scores(features[~kept])))
            torch.testing.assert_close(left[folds[places] == fold], expected)
        else:  # the smallest fit decides k, which is 9 of 12
            one = make_solver(name, [{"k": 9}], [1.0])
            one.fit(features[kept], labels[kept], 3)
            torch.testing.assert_close(left[folds[places] == fold], torch.cat(list(one.scores(features[~kept]))))


def test_losses_of_several_labels_and_of_votes(make_solver: MakeSolver) -> None:
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(6, 2, 3, generator=generator), torch.randint(2, (6, 3), generator=generator)
    p = 1 / (1 + np.exp(-scores.double().numpy()))
    y = labels.numpy()[:, None]
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(2).mean(0)
    assert make_solver("logreg").losses(scores, labels) == pytest.approx(expected)
    assert make_solver("knn").losses(scores, labels) is None


def test_every_solver_estimates_the_work_of_it(make_solver: MakeSolver) -> None:
    for name in SOLVERS:
        solver = make_solver(name)
        assert 0 < solver.left_out_work(20, 8, 3, 5) < solver.left_out_work(40, 8, 3, 5)
