"""Nearest class mean against scikit-learn and plain loops in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid

from tokenprobe.probe.solvers import Solver

from .test_ridge import draw, standardised

MakeSolver = Callable[..., Solver]


@pytest.mark.parametrize("n", [200, 10], ids=["tall", "fewer images than features"])
def test_classes_are_those_of_scikit_learns_nearest_centroid(n: int, make_solver: MakeSolver) -> None:
    (features, labels), (others, _) = draw(n, 30, 5), draw(90, 30, 5, seed=1)
    solver = make_solver("ncm")
    solver.fit(features, labels, 5)
    (scores,) = torch.cat(list(solver.scores(others))).unbind(1)
    x = features.double().numpy()
    z = (others.double().numpy() - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)
    oracle = NearestCentroid(metric="euclidean").fit(standardised(features), labels.numpy())
    assert scores.argmax(1).tolist() == oracle.predict(z).tolist()
    distances = np.array([[((row - mean) ** 2).sum() for mean in oracle.centroids_] for row in z])
    expected = -0.5 * (distances - distances[:, :1])
    np.testing.assert_allclose(scores - scores[:, :1], expected, rtol=1e-4, atol=1e-3)
    assert solver.status(0) == "solved"


def test_several_labels_ask_for_the_nearer_of_two_means_per_class(make_solver: MakeSolver) -> None:
    (features, labels), (others, _) = draw(40, 6, 4), draw(20, 6, 4, seed=1)
    targets = torch.stack([labels == 0, labels > 1, labels >= 0, labels > 9], dim=1).long()
    solver = make_solver("ncm")
    solver.fit(features, targets, 4)
    (scores,) = torch.cat(list(solver.scores(others))).unbind(1)
    x, z = features.double().numpy(), standardised(features)
    others_z = (others.double().numpy() - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)
    for index in (0, 1):
        has = targets[:, index].bool().numpy()
        far = [0.5 * ((others_z - z[rows].mean(0)) ** 2).sum(1) for rows in (has, ~has)]
        np.testing.assert_allclose(scores[:, index], far[1] - far[0], rtol=1e-4, atol=1e-3)
    assert (scores[:, 2] > 1e4).all() and (scores[:, 3] < -1e4).all(), "all images have one, none has the other"
