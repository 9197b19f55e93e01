"""What all solvers share, over the registry."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import Head, build_pooling
from tokenprobe.probe.solvers import SOLVERS, LinearSolver, Solver, contract, logreg, spectrum

Make = Callable[..., Solver]
N, M, F, C = 40, 25, 6, 4
GENERATOR = torch.Generator().manual_seed(0)
CENTRES = 4 * torch.randn(C, F, generator=GENERATOR) + 3
LABELS, TEST_LABELS = torch.arange(N) % C, torch.arange(M) % C
X, TEST_X = (CENTRES[y] + torch.randn(len(y), F, generator=GENERATOR) for y in (LABELS, TEST_LABELS))
SEVERAL = torch.stack([LABELS == 0, LABELS < 2, LABELS > 0, LABELS == 3], dim=1).long()
FEW: dict[str, dict[str, Any]] = {
    "knn": {"changes": [{"k": 1}, {"k": 3}]},
    "ncm": {},
    "ridge": {"penalties": [1e-3, 1.0]},
    "logreg": {"penalties": [1.0, 1e-3]},
}
LINEAR = [name for name, kind in SOLVERS.items() if issubclass(kind, LinearSolver)]

every_solver = pytest.mark.parametrize("name", SOLVERS)


def all_scores(solver: Solver, features: torch.Tensor) -> torch.Tensor:
    return torch.cat(list(solver.scores(features)))


@every_solver
def test_the_registry_knows_each_by_its_name(name: str) -> None:
    assert SOLVERS[name].name == name
    assert set(FEW) == set(SOLVERS)


@every_solver
@pytest.mark.parametrize("labels", [LABELS, SEVERAL], ids=["one label", "several"])
def test_scores_tell_classes_apart_and_come_the_same_again(name: str, labels: torch.Tensor, make_solver: Make) -> None:
    found = []
    for _ in range(2):
        solver = make_solver(name, **FEW[name])
        solver.fit(X, labels, C)
        found.append(all_scores(solver, TEST_X))
    assert torch.equal(*found)
    assert found[0].shape == (M, len(solver.settings), C)
    if labels is LABELS:
        assert ((found[0].argmax(2) == TEST_LABELS[:, None]).float().mean(0) > 0.9).all()
    else:
        assert (found[0][TEST_LABELS == 0, :, 0].mean(0) > found[0][TEST_LABELS > 0, :, 0].mean(0)).all()


@every_solver
def test_parts_of_any_size_give_the_same(name: str, make_solver: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    # Logistic regression then goes from strength to strength, and meets the other way only at the minimum.
    monkeypatch.setattr(logreg.LogisticRegression, "tolerance", 1e-10)
    whole, parts = make_solver(name, **FEW[name]), make_solver(name, **FEW[name])
    whole.fit(X, LABELS, C)
    expected = all_scores(whole, TEST_X)
    monkeypatch.setattr(contract, "CHUNK_ELEMENTS", 64)
    parts.fit(X, LABELS, C)
    assert len(list(parts.scores(TEST_X))) > 1
    torch.testing.assert_close(all_scores(parts, TEST_X), expected, rtol=1e-4, atol=1e-5)


@every_solver
@pytest.mark.parametrize("shots", [1, 2])
def test_one_image_a_class_is_enough(name: str, shots: int, make_solver: Make) -> None:
    solver = make_solver(name, **FEW[name] | ({"changes": [{"k": 1}]} if name == "knn" else {}))
    solver.fit(X[: shots * C], LABELS[: shots * C], C)
    scores = all_scores(solver, X[: shots * C])
    assert torch.isfinite(scores).all()
    assert torch.equal(scores.argmax(2), LABELS[: shots * C, None].expand_as(scores[..., 0]))


@every_solver
def test_a_class_without_training_images_is_never_the_first(name: str, make_solver: Make) -> None:
    rows = LABELS != 2
    solver = make_solver(name, **FEW[name])
    solver.fit(X[rows], LABELS[rows], C)
    scores = all_scores(solver, TEST_X)
    assert torch.isfinite(scores).all()
    assert (scores.argmax(2) != 2).all()
    solver.fit(X[LABELS == 1], LABELS[LABELS == 1], C)  # one class alone
    assert (all_scores(solver, TEST_X).argmax(2) == 1).all()


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("pool", ["cls", "mean", "cls+mean", "embedding"])
@pytest.mark.parametrize("labels", [LABELS, SEVERAL], ids=["one label", "several"])
def test_the_state_makes_a_head_with_the_same_scores(
    name: str, pool: str, labels: torch.Tensor, make_solver: Make
) -> None:
    prefix, mean = 10 * X[:, None, :3] + 5, X[:, None, 3:] / 100
    tokens = {"cls": prefix, "mean": mean, "cls+mean": torch.cat([prefix, mean], dim=1), "embedding": mean}[pool]
    solver = make_solver(name, [{"pool": pool}], FEW[name].get("penalties"))
    assert isinstance(solver, LinearSolver)
    solver.fit(tokens.flatten(1), labels, C)
    scores = all_scores(solver, tokens.flatten(1))
    for index in range(len(solver.settings)):
        head = Head(build_pooling("linear", dim=3, grid=(1, 1), **solver.pooling), C).eval()
        state = solver.state(index)
        head.load_state_dict({key: value[None] for key, value in state.items()})
        torch.testing.assert_close(head(tokens), scores[:, index], rtol=1e-4, atol=1e-4)


def test_neighbours_are_no_head(make_solver: Make) -> None:
    assert make_solver("knn").state(0) is None


@every_solver
def test_a_pooling_that_needs_all_tokens_is_refused(name: str, make_solver: Make) -> None:
    with pytest.raises(
        InputError, match=f"head '{name}': pool='max', but it reads one stored .* cls, mean, cls.mean, embedding;"
    ):
        make_solver(name, [{"pool": "max"}])


@every_solver
def test_a_fit_tells_how_far_it_is(name: str, make_solver: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "CHUNK_ELEMENTS", 64)
    told: list[float] = []
    make_solver(name, **FEW[name]).fit(X, LABELS, C, told.append)
    assert all(part >= 0 for part in told)
    parts = [part for part in told if part]
    if name == "knn":
        assert not told, "it only keeps the features"
    else:
        assert len(parts) > 1 and sum(parts) == pytest.approx(1)


def addmm_flop(sums: Sequence[int], left: Sequence[int], right: Sequence[int], **options: Any) -> int:
    """Operations of a product that is added in place; torch's counter knows `addmm` alone."""
    return 2 * left[0] * left[1] * right[1]


@every_solver
@pytest.mark.parametrize("n", [N, F - 1], ids=["many images", "fewer images than features"])
def test_the_announced_operations_are_those_that_are_made(name: str, n: int, make_solver: Make) -> None:
    """torch counts those of matrix products: all but decompositions and what goes element by element."""
    solver = make_solver(name, **FEW[name])
    work, r = solver.work(n, M, F, C), min(n, F)
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: addmm_flop}) as of_fit:
        solver.fit(X[:n], LABELS[:n], C)
    with FlopCounterMode(display=False) as of_scores:
        all_scores(solver, TEST_X)
    assert of_scores.get_total_flops() == work.scores
    decompositions = 0 if name == "ncm" else spectrum.EIGH_WORK * r**3 + (spectrum.QR_WORK * F * n**2 if n < F else 0)
    if name in ("ncm", "ridge"):
        assert of_fit.get_total_flops() == work.fit - decompositions
    if name == "logreg":  # nobody knows the iterations beforehand; some take two evaluations, and a start takes one
        n_iterations = sum(int(re.findall(r"in (\d+) iterations", solver.status(index))[0]) for index in range(2))
        iteration = 4 * n * (r + 1) * C
        others = work.fit - decompositions - 2 * logreg.USUAL_ITERATIONS * iteration
        assert n_iterations * iteration < of_fit.get_total_flops() - others < 2 * n_iterations * iteration
    assert solver.work(2 * N, M, F, C).fit > work.fit and solver.work(n, 2 * M, F, C).scores == 2 * work.scores
