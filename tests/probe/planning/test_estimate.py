"""The dry run: what it says against what a fit does."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenprobe.probe import FitConfig
from tokenprobe.probe.grid.regimes import row_sets
from tokenprobe.probe.planning import estimate as estimate_module
from tokenprobe.probe.planning.estimate import Estimate, describe, estimate
from tokenprobe.probe.planning.layer_plan import LayerPlan, make_layer_plan
from tokenprobe.probe.planning.machine import make_machine
from tokenprobe.probe.run.made_from import name_stores
from tokenprobe.probe.run.results import Run
from tokenprobe.store import Store

from ..kit import counted_bytes, fit_made, plan_of, write_made

MACHINE = make_machine(FitConfig(out="run", device="cpu"))
ROW = 6 * 8 * 2
"""Bytes of the patch tokens of one image and layer."""
SETTINGS: dict[str, Any] = {"heads": ["ep:queries=4"], "lr": [1.0], "layers": "1", "seeds": 2, "epochs": 3}


@pytest.fixture
def store(write_store: Callable[..., Store], tmp_path: Path) -> Store:
    return write_made(write_store, tmp_path / "s.zarr")


def layer_plans(store: Store, out: Path, **changes: Any) -> list[LayerPlan]:
    run = Run(out)
    (plan,) = name_stores(run, [plan_of(store, **SETTINGS | {"batch_size": 16, "out": out} | changes)])
    machine = make_machine(plan.config)
    return [make_layer_plan(plan, machine, layers, run.finished) for layers in plan.grid.layers]


def estimate_of(layer: LayerPlan) -> Estimate:
    return estimate(layer, make_machine(layer.plan.config), {})


@pytest.mark.parametrize("shots", [["full"], ["4", "2"], ["full", "4", "2"]])
@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_as_many_bytes_are_read_as_were_announced(store: Store, tmp_path: Path, cache: str, shots: list[str]) -> None:
    (layer,) = layer_plans(store, tmp_path / "run", cache=cache, shots=shots)
    announced = estimate_of(layer)
    with counted_bytes() as read:
        fit_made(store, tmp_path / "run", cache=cache, shots=shots, **SETTINGS)
    assert sum(read) == announced.read > 0
    assert announced.kept == (announced.read if cache == "ram" else 0)
    most = max(32, *(len(regime.train_rows) for regime in layer.regimes)) if cache == "disk" else 0
    assert announced.windows == min(32, most) * ROW  # eight blocks of four


def test_a_subset_is_announced_to_be_read_as_seldom_as_it_is_scored(store: Store, tmp_path: Path) -> None:
    settings = SETTINGS | {"cache": "disk", "shots": ["2"], "epochs": 30, "seeds": 1}
    (layer,) = layer_plans(store, tmp_path / "run", **settings)
    assert [len(regime.scored) for regime in layer.regimes] == [10]
    with counted_bytes() as read:
        fit_made(store, tmp_path / "run", **settings)
    assert sum(read) == estimate_of(layer).read > 0


@pytest.mark.parametrize("cache", ["ram", "disk"])
@pytest.mark.parametrize("heads", [["linear", "knn:k=5"], ["linear", "ep:queries=4"]])
def test_means_of_normed_tokens_are_announced_as_the_tokens_that_they_are_made_of(
    write_store: Callable[..., Store], tmp_path: Path, cache: str, heads: list[str]
) -> None:
    norm = {"kind": "LayerNorm", "eps": 1e-6, "weight": None, "bias": None}
    store = write_made(write_store, tmp_path / "s.zarr", final_norm=norm)
    settings = SETTINGS | {"heads": heads, "norm": "final", "cache": cache, "shots": ["full", "4"]}
    (layer,) = layer_plans(store, tmp_path / "run", **settings)
    announced = estimate_of(layer)
    with counted_bytes() as read:
        fit_made(store, tmp_path / "run", **settings)
    assert sum(read) == announced.read > 0
    in_memory = cache == "ram" and "ep:queries=4" in heads
    n_rows = sum(map(len, row_sets(layer.plan.data, layer.regimes).values()))
    if cache == "ram":
        n_rows = 88 + 60  # subsets are rows of what is kept already
    assert announced.kept == n_rows * 8 * 4 + (n_rows * ROW if in_memory else 0)
    assert announced.windows == (0 if in_memory else 32 * ROW)


@pytest.mark.usefixtures("messages")
def test_the_dry_run_says_what_would_be_done_and_does_nothing(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit_made(store, tmp_path / "run", dry_run=True, shots=["full", "4"], layers="all,0+1", seeds=2)
    said = capsys.readouterr().err
    assert run.results.empty and not (tmp_path / "run").exists()
    assert f"{store.path}: timm:none on made, as none" in said
    assert "  80 training, 8 held-out and 60 test images" in said
    assert "  shots 4, 2 seeds: 16 training, 8 held-out and 60 test images" in said
    cells = 3 * 2 * 2 * 2  # heads, shots, rates, seeds
    for layer in ("0", "1", "0+1"):
        assert f"none, layer {layer}: {cells} cells in 9 groups and 1 pass; reads " in said
    total = re.search(r"in all (\d+) cells: .* to read, .* of memory at most, \d+ s of fitting and scoring", said)
    assert total is not None and int(total[1]) == 3 * cells


@pytest.mark.parametrize(("pool", "width"), [("mean", 8), ("embedding", 5)])
def test_pooled_vectors_are_announced_and_the_time_of_solvers_is_said_to_be_a_guess(
    store: Store, tmp_path: Path, pool: str, width: int
) -> None:
    (layer,) = layer_plans(store, tmp_path / "run", heads=[f"linear:pool={pool}", f"ridge:pool={pool}"])
    found = estimate_of(layer)
    assert found.read == found.kept == (88 + 60) * width * 4
    assert found.solving > 0
    assert describe([layer], MACHINE)[-1] == "0 s of it for ridge, a guess from operation counts"


def test_one_of_a_kind_is_singular_and_a_solver_makes_no_pass(store: Store, tmp_path: Path) -> None:
    (layer,) = layer_plans(store, tmp_path / "run", heads=["knn:k=5"], seeds=1)
    lines = describe([layer], MACHINE)
    assert lines[-3].startswith("none, layer 1: 1 cell in 1 group; reads ") and "training" not in lines[-3]
    assert lines[-2].startswith("in all 1 cell: ") and lines[-1].startswith("0 s of it for knn, ")


def test_the_time_in_all_counts_solvers_too(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate_module, "solver_seconds", lambda plan, group, device: 3600.0)
    (layer,) = layer_plans(store, tmp_path / "run", heads=["knn:k=5", "ridge", "linear"], seeds=1)
    *_, in_all, solvers = describe([layer], MACHINE)
    assert in_all.endswith(", 2 h 0 min of fitting and scoring")
    assert solvers == "2 h 0 min of it for knn, ridge, a guess from operation counts"


def test_the_time_is_that_of_all_steps_and_of_scoring_validation_and_test(store: Store, tmp_path: Path) -> None:
    (layer,) = layer_plans(store, tmp_path / "run", shots=["full", "4"])
    of_training, of_scoring = 1.0, 1e-3
    timed = {
        (group.cells[0].head, len(group.cells), layer.plan.input_shape(group.cells[0])): (of_training, of_scoring)
        for groups in layer.passes
        for group in groups
    }
    full, subsets = 3 * 5 * 16, 2 * 3 * 16  # epochs × steps × batch; two seeds of one step of 16
    scored = 3 * (8 + 60) + 2 * 3 * (8 + 60)  # of four images per class, eight are held out too
    found = estimate(layer, MACHINE, timed)
    assert found.seconds == pytest.approx((full + subsets) * of_training + scored * of_scoring, abs=1e-9)


def test_what_a_run_has_already_is_not_announced(store: Store, tmp_path: Path) -> None:
    fit_made(store, tmp_path / "run", **SETTINGS)
    assert describe(layer_plans(store, tmp_path / "run"), MACHINE)[-1].startswith("in all 0 cells: 0 B to read")


def test_training_bytes_are_those_of_all_groups_and_the_largest_step(store: Store, tmp_path: Path) -> None:
    """Twice the cells keep twice as much; parameters alone are a part of that."""
    (one,) = layer_plans(store, tmp_path / "run", seeds=1)
    (two,) = layer_plans(store, tmp_path / "run", seeds=2)
    few, more = (estimate_of(layer).training for layer in (one, two))
    n_parameters = 4 * 8 + 8 * 8 + 4 * 8 + 4
    assert few > 3 * 4 * n_parameters and few < more < 2 * few
