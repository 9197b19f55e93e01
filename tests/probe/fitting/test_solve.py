"""Heads fitted at once: scores that come in chunks, and the vectors they are computed from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.fitting.solve import pooled_features
from tokenprobe.probe.fitting.streams import LayerStreams
from tokenprobe.probe.grid.cells import make_solver
from tokenprobe.probe.solvers import contract
from tokenprobe.store import Store

from ..kit import LABELS, fit_made, layer_plan_of, plan_of, tokens_of, write_made

COMPARED = ["cell", "val_top1", "test_top1", "test_top5", "test_mean_class"]


@pytest.fixture
def store(write_store: Callable[..., Store], tmp_path: Path) -> Store:
    return write_made(write_store, tmp_path / "s.zarr")


@pytest.mark.parametrize("head", ["knn:k=5", "ridge", "logreg"])
def test_scores_in_chunks_meet_the_labels_of_their_rows(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    whole = fit_made(store, tmp_path / "whole", heads=[head], layers="1").results
    monkeypatch.setattr(contract, "CHUNK_ELEMENTS", 300)  # 75 scores of four classes or fewer: several chunks
    parts = fit_made(store, tmp_path / "parts", heads=[head], layers="1").results
    assert parts[COMPARED].equals(whole[COMPARED])
    assert whole["test_top1"].max() > 0.5  # labels in another order would be hit by one in four


@pytest.mark.parametrize("pool", ["cls", "mean", "cls+mean", "embedding"])
def test_pooled_vectors_are_those_of_the_rows_asked_for(store: Store, pool: str) -> None:
    plan = plan_of(store, heads=[f"ridge:pool={pool}"], layers="1", shots=["4"])
    (regime,) = plan.grid.regimes
    streams = LayerStreams(layer_plan_of(plan, LayerSet((1,))), torch.device("cpu"))
    (group,) = plan.grid.solved_groups(LayerSet((1,)), regime)
    rows = regime.train_rows
    features, labels = pooled_features(plan, group.cells[0], pool, streams.train(regime), rows)
    tokens = tokens_of("train")[1]
    parts = {"cls": tokens["prefix"][:, 0], "mean": tokens["mean"], "embedding": tokens["embedding"]}
    expected = np.concatenate([parts[name].astype(np.float32) for name in pool.split("+")], axis=1)
    assert np.array_equal(features.numpy(), expected[rows])
    assert np.array_equal(labels.numpy(), LABELS["train"][rows])


@pytest.mark.parametrize("head", ["ncm", "ridge", "knn:k=5", "logreg"])
def test_solvers_choose_within_the_shots(store: Store, tmp_path: Path, head: str) -> None:
    """The images of each fold are hit by a fit to the rest; held-out images choose nothing, unless they are asked."""
    settings: dict[str, Any] = {"heads": [head], "layers": "1", "shots": ["4"]}
    run = fit_made(store, tmp_path / "run", **settings).results
    plan = plan_of(store, **settings)
    (regime,) = plan.grid.regimes
    x, y = tokens_of("train")[1]["mean"][regime.train_rows], LABELS["train"][regime.train_rows]
    assert run["n_val"].eq(16).all() and regime.n_folds == 4
    solver = make_solver(plan.grid.solved_groups(LayerSet((1,)), regime)[0].cells)
    folds = torch.arange(16) if head == "ridge" else torch.from_numpy(regime.folds)
    if head != "ridge":  # a refit per fold; test_left_out.py has the exact leave-one-out of ridge
        hits = torch.zeros(len(solver.settings))
        for fold in range(4):
            out = folds == fold
            solver.fit(torch.from_numpy(x)[~out], torch.from_numpy(y)[~out], 4)
            (scores,) = solver.scores(torch.from_numpy(x)[out])
            hits += (scores.argmax(2) == torch.from_numpy(y)[out, None]).sum(0)
        assert run["val_top1"].tolist() == pytest.approx((hits / 16).tolist())
    assert run["val_loss"].isna().all() == (head == "knn:k=5")
    if head in ("ridge", "logreg"):
        assert run["val_loss"][run["selected"]].tolist() == [run["val_loss"].min()]
    other = fit_made(store, tmp_path / "other", **settings, select_on="held-out").results
    assert other["val_loss"].isna().all() and other["n_val"].tolist() == [len(regime.val_rows)] * len(run)
    assert other["test_top1"].equals(run["test_top1"])


@pytest.mark.parametrize(
    "changes", [{"shots": ["full"]}, {"shots": ["4"], "protocol": "paper"}], ids=["full data", "paper"]
)
def test_full_data_and_the_paper_choose_as_ever(store: Store, tmp_path: Path, changes: dict[str, Any]) -> None:
    results = fit_made(store, tmp_path / "run", heads=["ridge"], layers="1", **changes).results
    assert results["val_loss"].isna().all()
    assert results["n_val"].eq(0 if "protocol" in changes else 8).all()


def test_one_image_per_class_gives_the_strongest_penalty_and_held_out_figures(store: Store, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"heads": ["ridge", "logreg", "ncm", "linear"], "layers": "1", "shots": ["1"]}
    results = fit_made(store, tmp_path / "run", **settings, lr=[1.0]).results.set_index("head")
    assert results["weight_decay"].to_dict() == pytest.approx(
        {"ridge": 1e3, "logreg": 1e6, "ncm": np.nan, "linear": 0.0}, nan_ok=True
    )
    assert results["n_val"].eq(4).all() and results["val_top1"].notna().all() and results["val_loss"].isna().all()
    assert results.loc["linear", "best_epoch"] == results.loc["linear", "epochs"], "four images choose no epoch"


def test_heads_that_take_no_steps_have_no_cost_of_a_step(store: Store, tmp_path: Path) -> None:
    heads = ["ridge", "logreg", "ncm", "knn", "linear"]
    results = fit_made(store, tmp_path / "run", heads=heads, layers="1", lr=[1.0]).results
    trained = results["head"] == "linear"
    assert results["flops_train"].notna().equals(trained), "only the trained head takes steps"
    assert set(results["flops_forward"][results["head"] != "knn"]) == set(results["flops_forward"][trained])
    costs = pd.read_csv(tmp_path / "run" / "tables" / "cost.csv").set_index("head")["flops_train"]
    assert costs.notna().sum() == 1 and costs.dropna().tolist() == results["flops_train"][trained].tolist()


def test_top_5_of_neighbours_counts_classes_with_a_vote_alone(store: Store, tmp_path: Path) -> None:
    """Four classes: all of them are among the first five, but one neighbour votes for one class, three for three."""
    heads = ["knn:k=1|3,temperature=0.07|0.0001"]  # at the low one float32 rounds the votes of most neighbours to 0
    found = fit_made(store, tmp_path / "run", heads=heads, layers="1", protocol="paper").results
    x, x_test = (tokens_of(split)[1]["mean"].astype(np.float64) for split in LABELS)
    cosines = [[row @ other / np.linalg.norm(row) / np.linalg.norm(other) for other in x] for row in x_test]
    order = np.argsort(-np.array(cosines), axis=1)
    for row in found.itertuples():
        k = int(row.head_config.partition("k=")[2].partition(",")[0])
        voted = [set(LABELS["train"][nearest[:k]]) for nearest in order]
        assert row.test_top5 == np.mean(
            [label in classes for label, classes in zip(LABELS["test"], voted, strict=True)]
        )
        assert k > 1 or row.test_top5 == row.test_top1
    assert len(found) == 4 and found["test_top5"].max() < 1
