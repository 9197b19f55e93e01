"""The plan of a layer: the cells a run lacks, the place of each row set, and the room that training has."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenprobe.probe.batches.data import SUBSETS, TEST, TRAIN
from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.planning.layer_plan import USABLE, LayerPlan, make_layer_plan, memory_of
from tokenprobe.probe.planning.machine import Machine
from tokenprobe.probe.planning.places import choose_places
from tokenprobe.probe.planning.plan import Plan
from tokenprobe.store import Store

from ..kit import plan_of, write_made

CPU = torch.device("cpu")
LAYER = LayerSet((1,))
ROW = 6 * 8 * 2
"""Bytes of the patch tokens of one image and layer."""
N_TRAIN, N_TEST = 88, 60


@pytest.fixture
def store(write_store: Callable[..., Store], tmp_path: Path) -> Store:
    return write_made(write_store, tmp_path / "s.zarr")


def layer_of(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, ram: int, cache: str = "auto", layers: LayerSet = LAYER
) -> LayerPlan:
    """Plan layer 1 on a machine that has some bytes of memory free."""
    asked: list[None] = []

    def free_bytes(self: Machine) -> dict[str, int]:
        asked.append(None)
        return {"ram": ram}

    with monkeypatch.context() as patched:
        patched.setattr(Machine, "free_bytes", free_bytes)
        layer = make_layer_plan(plan, Machine(CPU, "float32", cache), layers, frozenset())
    assert len(asked) == 1  # free memory is looked at once per layer
    return layer


def test_tokens_are_kept_in_memory_if_they_take_less_than_half_of_the_free_bytes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, token_bytes = plan_of(store, heads=["ridge"]), (N_TRAIN + N_TEST) * ROW
    assert layer_of(plan, monkeypatch, 2 * token_bytes + 2).places == {TRAIN: "ram", TEST: "ram"}
    assert layer_of(plan, monkeypatch, 2 * token_bytes).places == {TRAIN: "disk", TEST: "ram"}
    plenty = 10**9
    assert layer_of(plan, monkeypatch, plenty, "disk").places == {TRAIN: "disk", TEST: "disk"}


def test_small_subsets_are_kept_where_all_of_training_is_not(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(store, shots=["full", "2", "1"], seeds=2, heads=["ridge"])
    subsets = np.unique(np.concatenate([[*r.train_rows, *r.val_rows] for r in plan.grid.regimes[1:]]))
    apart = layer_of(plan, monkeypatch, 2 * (len(subsets) + N_TEST + 1) * ROW)
    assert apart.places == {TRAIN: "disk", SUBSETS: "ram", TEST: "ram"}
    assert list(apart.rows[SUBSETS]) == list(subsets)
    together = layer_of(plan, monkeypatch, 10**9)
    assert together.rows.keys() == {TRAIN, TEST}  # subsets are rows of the training set
    assert list(together.rows[TRAIN]) == list(range(N_TRAIN)) and list(together.rows[TEST]) == list(range(N_TEST))


def test_kept_tokens_leave_less_room_for_training(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free bytes that just hold one step and the tokens: kept in memory, they leave room for the step and no more."""
    plan = plan_of(store, heads=["ep:queries=4"], lr=[1.0, 2.0, 3.0], batch_size=16)
    (group,) = plan.grid.trained_groups(LAYER, plan.grid.regimes[0])
    memory = memory_of(plan, CPU, group)
    whole, kept = memory.kept + memory.working, (N_TRAIN + N_TEST) * ROW
    enough = -(-(whole + kept) * 10 // int(USABLE * 10))
    short = -(-(whole + kept) * 10 // int(USABLE * 10)) - kept
    assert layer_of(plan, monkeypatch, enough + 1, "ram").passes == [[group]]
    assert len(layer_of(plan, monkeypatch, short, "ram").passes[0]) > 1
    assert layer_of(plan, monkeypatch, short, "disk").passes == [[group]]


def test_means_that_are_kept_take_no_room_of_patch_tokens(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(store, heads=["linear"], lr=[1.0], batch_size=16)
    (group,) = plan.grid.trained_groups(LAYER, plan.grid.regimes[0])
    memory = memory_of(plan, CPU, group)
    least = -(-(memory.kept + memory.working) * 10 // int(USABLE * 10)) + 1
    assert layer_of(plan, monkeypatch, least, "ram").passes == [[group]]


def test_means_of_stacked_layers_are_kept_only_where_they_have_room(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(store, heads=["alf:tokens=mean"], layers="stack:all", lr=[1.0], batch_size=16)
    (layers,) = plan.grid.layers
    mean_bytes = (N_TRAIN + N_TEST) * 2 * 8 * 4  # two layers, 8 channels in float32
    assert layer_of(plan, monkeypatch, 10**9, layers=layers).places == {TRAIN: "ram", TEST: "ram"}
    assert choose_places("auto", {TRAIN: mean_bytes}, {"ram": mean_bytes + 1}) == {TRAIN: "ram"}
    layer = layer_of(plan, monkeypatch, 10**9, "disk", layers=layers)
    assert layer.places == {TRAIN: "disk", TEST: "disk"} and layer.placed == ["mean"]
    assert plan.data.row_bytes(layers, layer.placed, TRAIN) * (N_TRAIN + N_TEST) == mean_bytes


def test_cells_that_the_run_has_are_left_out(store: Store) -> None:
    plan = plan_of(store, heads=["linear", "ridge"], lr=[1.0, 2.0], shots=["full", "4"])
    machine = Machine(CPU, "float32", "auto")
    whole = make_layer_plan(plan, machine, LAYER, frozenset())
    names = [cell.name for group in whole.groups for cell in group.cells]
    assert whole.n_cells == len(names) == 2 * (2 + 10)
    some = frozenset(name for name in names if "shots=full" in name or "lr=1-" in name)
    left = make_layer_plan(plan, machine, LAYER, some)
    assert {cell.name for group in left.groups for cell in group.cells} == set(names) - some
    assert left.regimes == [plan.grid.regimes[1]] and left.rows.keys() <= {SUBSETS, TEST}
    nothing = make_layer_plan(plan, machine, LAYER, frozenset(names))
    assert not nothing and (nothing.n_cells, nothing.groups) == (0, [])


@pytest.mark.parametrize("name", ["s.zarr", "s.h5"])
def test_a_plan_goes_to_another_process(write_store: Callable[..., Store], tmp_path: Path, name: str) -> None:
    """It holds no device and no open file: the copy reads the same tokens and plans the same cells."""
    norm = {"kind": "LayerNorm", "eps": 1e-6, "weight": None, "bias": None}
    store = write_made(write_store, tmp_path / name, final_norm=norm)
    plan = plan_of(store, heads=["ep:queries=4", "knn:k=5"], shots=["full", "4"], norm="final")
    machine = Machine(CPU, "float32", "auto")
    layer = make_layer_plan(plan, machine, LAYER, frozenset())
    copy = pickle.loads(pickle.dumps(layer))
    assert b"torch" not in pickle.dumps(plan)
    for one, two in zip(layer.groups, copy.groups, strict=True):
        assert one.cells == two.cells
        assert np.array_equal(one.regime.train_rows, two.regime.train_rows)
    assert copy.plan.data.holds_out and copy.plan.data.fingerprints() == plan.data.fingerprints()
    expected = store["train"].tokens(1, rows=[3, 1])
    assert np.array_equal(copy.plan.data.train.tokens(1, rows=[3, 1]), expected)
