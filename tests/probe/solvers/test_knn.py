"""Nearest neighbours against the reference's figures, brute force in float64, and scikit-learn."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.neighbors import KNeighborsClassifier

from tokenprobe.errors import InputError
from tokenprobe.probe.solvers import Solver
from tokenprobe.probe.solvers.knn import largest, nearest

Make = Callable[..., Solver]
KS, TEMPERATURES = (1, 3, 10), (0.07, 0.2)
GRID: list[dict[str, Any]] = [{"k": k, "temperature": t} for t in TEMPERATURES for k in KS]


def draw(n: int, seed: int, width: int = 5) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def brute_force(x: np.ndarray, bank: np.ndarray, labels: np.ndarray, k: int, temperature: float) -> np.ndarray:
    """Return the weighted mean of the neighbours' labels (n, C), one image at a time, in float64."""
    bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    scores = []
    for row in x / np.linalg.norm(x, axis=1, keepdims=True):
        similarity = np.array([row @ other for other in bank])
        chosen = sorted(range(len(bank)), key=lambda i: -similarity[i])[:k]
        weights = np.exp(similarity[chosen] / temperature)
        scores.append(sum(w * labels[i] for w, i in zip(weights, chosen, strict=True)) / weights.sum())
    return np.stack(scores)


def test_accuracies_are_the_references(golden: Path, make_solver: Make) -> None:
    data = load_file(golden / "knn.safetensors")
    expected = json.loads((golden / "knn.json").read_text())
    pairs = [dict(part.split("=") for part in key.split(",")) for key in expected]
    solver = make_solver("knn", [{"k": int(pair["k"]), "temperature": float(pair["T"])} for pair in pairs])
    solver.fit(data["train_features"], data["train_labels"], int(data["train_labels"].max()) + 1)
    scores = torch.cat(list(solver.scores(data["test_features"])))
    # With k = 5 fewer than five classes have votes: those without are ranked by number.
    ranked = scores.sort(dim=2, descending=True, stable=True).indices == data["test_labels"][:, None, None]
    for index, (top1, top5) in enumerate(expected.values()):
        found = ranked[:, index]
        assert 100 * found[:, 0].double().mean().item() == pytest.approx(top1, abs=1e-9)
        assert 100 * found[:, :5].any(1).double().mean().item() == pytest.approx(top5, abs=1e-9)


@pytest.mark.parametrize("several", [False, True])
def test_scores_are_the_weighted_means_of_labels(several: bool, make_solver: Make) -> None:
    bank, x = draw(30, 1), draw(11, 2)
    targets = (draw(30, 3, 4) > 0).long() if several else torch.eye(4, dtype=torch.int64)[torch.arange(30) % 4]
    solver = make_solver("knn", GRID)
    solver.fit(bank, targets if several else targets.argmax(1), 4)
    scores = torch.cat(list(solver.scores(x)))
    for index, settings in enumerate(GRID):
        expected = brute_force(x.double().numpy(), bank.double().numpy(), targets.numpy(), **settings)
        np.testing.assert_allclose(scores[:, index], expected, rtol=2e-5, atol=1e-6)


def test_probabilities_are_scikit_learns(make_solver: Make) -> None:
    bank, x, labels = draw(60, 4), draw(20, 5), torch.arange(60) % 3
    solver = make_solver("knn", GRID)
    solver.fit(bank, labels, 3)
    scores = torch.cat(list(solver.scores(x)))
    for index, settings in enumerate(GRID):
        oracle = KNeighborsClassifier(
            settings["k"],
            metric="cosine",
            algorithm="brute",
            weights=lambda distance, t=settings["temperature"]: np.exp((1 - distance) / t),
        ).fit(bank.double().numpy(), labels.numpy())
        np.testing.assert_allclose(scores[:, index], oracle.predict_proba(x.double().numpy()), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("elements", [10, 25, 60, 500, 1 << 12])
def test_a_bank_in_parts_has_the_same_neighbours(elements: int) -> None:
    bank, x = draw(50, 6), draw(10, 7)
    similarity, index = nearest(x, bank, 8, torch.empty(elements))
    products = x.double() @ bank.double().T
    expected = products.argsort(dim=1, descending=True)[:, :8]
    assert torch.equal(index, expected)
    torch.testing.assert_close(similarity.double(), products.gather(1, expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("n", "k"), [(7, 7), (50, 3), (99, 1), (1000, 20), (1003, 20), (4096, 1)])
@pytest.mark.parametrize("ties", [False, True])
def test_the_largest_are_those_of_a_full_sort(n: int, k: int, ties: bool) -> None:
    values = draw(20, n, n)
    if ties:
        values = values.mul(2).round()  # a dozen different values
    found, columns = largest(values, k)
    assert torch.equal(found, values.sort(dim=1, descending=True).values[:, :k])
    assert torch.equal(values.gather(1, columns), found)
    assert all(len(set(row)) == k for row in columns.tolist())


def test_a_low_temperature_does_not_overflow(make_solver: Make) -> None:
    bank = draw(20, 8)
    solver = make_solver("knn", [{"k": 20, "temperature": 1e-4}])  # exp(1 / 1e-4) is no float
    solver.fit(bank, torch.arange(20), 20)
    scores = torch.cat(list(solver.scores(bank)))[:, 0]
    torch.testing.assert_close(scores, torch.eye(20), rtol=0, atol=1e-6)


def test_what_was_searched_is_said(make_solver: Make) -> None:
    solver = make_solver("knn")
    solver.fit(draw(20, 9), torch.arange(20), 20)
    assert solver.status(0) == "searched 20 images"


def test_more_neighbours_than_images_are_refused(make_solver: Make) -> None:
    solver = make_solver("knn", [{"k": 5}, {"k": 11}])
    with pytest.raises(InputError, match="head 'knn': k=11 neighbours of 10 training images; give k of at most 10"):
        solver.fit(draw(10, 0), torch.arange(10), 10)


@pytest.mark.parametrize("setting", [{"k": 0}, {"temperature": 0.0}, {"temperature": float("nan")}])
def test_no_neighbours_and_no_temperature_are_refused(setting: dict[str, Any], make_solver: Make) -> None:
    ((key, value),) = setting.items()
    with pytest.raises(InputError, match=f"head 'knn': expected {key} > 0, got {key}={value}"):
        make_solver("knn", [setting])
