"""Layers, cells and their groups, against lists written by hand."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.grid.cells import (
    LONGEST_NAME,
    Cell,
    Grid,
    shortened,
    store_of,
)
from tokenprobe.probe.grid.regimes import Regime
from tokenprobe.probe.grid.specs import parse_heads
from tokenprobe.probe.solvers import SOLVERS


def make_regime(shots: str = "full", seeds: tuple[int, ...] = (0,)) -> Regime:
    return Regime(shots, seeds, np.arange(8), np.arange(2), 4, 3, 0.5, (1, 2, 3))


def make_grid(heads: list[str], **changes: Any) -> Grid:
    fields = {
        "layers": [LayerSet((7,))],
        "regimes": [],
        "optimizer": "sgd",
        "lrs": [0.1, 1.0],
        "weight_decays": [0.0, 0.5],
    }
    return Grid(store="vit", heads=parse_heads(heads), **fields | changes)


def test_the_grid_is_every_combination_grouped_by_head() -> None:
    grid = make_grid(["ep:queries=2|4", "knn", "linear"])
    heads, regime = grid.heads, make_regime("16", (0, 1, 2))
    groups = grid.trained_groups(LayerSet((7,)), regime)
    assert [{cell.head for cell in group.cells} for group in groups] == [{heads[0]}, {heads[1]}, {heads[3]}]
    for group in groups:
        assert group.regime is regime
        assert [(cell.lr, cell.weight_decay, cell.seed) for cell in group.cells] == list(
            product([0.1, 1.0], [0.0, 0.5], [0, 1, 2])
        )
        assert {(c.store, c.layers, c.optimizer, c.shots) for c in group.cells} == {
            ("vit", LayerSet((7,)), "sgd", "16")
        }


def test_a_solver_fits_all_penalties_and_one_search_serves_every_k() -> None:
    grid = make_grid(["knn:k=5|10", "ep", "ridge", "knn:pool=cls", "ridge:pool=cls"])
    groups = grid.solved_groups(LayerSet((7,)), make_regime(seeds=(0, 1, 2)))
    assert [[cell.head.label for cell in group.cells][:2] for group in groups] == [
        ["knn:k=5", "knn:k=10"], ["ridge:pool=mean"] * 2, ["knn:k=20,pool=cls"], ["ridge:pool=cls"] * 2,
    ]  # fmt: skip
    assert {cell.seed for group in groups for cell in group.cells} == {0}
    assert {cell.lr for group in groups for cell in group.cells} == {None}
    assert [cell.weight_decay for cell in groups[1].cells] == list(SOLVERS["ridge"].penalties)
    assert [cell.weight_decay for cell in groups[0].cells] == [None, None]


def test_a_penalty_that_nothing_can_choose_is_the_strongest() -> None:
    lone, folds = (replace(make_regime("1"), folds=np.array(each)) for each in ([-1] * 8, [0, 1] * 4))
    assert (lone.lone, lone.n_left_out, lone.n_folds) == (True, 0, 0)
    assert (folds.lone, folds.n_left_out, folds.n_folds) == (False, 8, 2)
    grid = make_grid(["ridge", "logreg", "ncm"])
    groups = grid.solved_groups(LayerSet((7,)), lone)
    assert [[cell.weight_decay for cell in group.cells] for group in groups] == [[1e3], [1e6], [None]]
    assert [len(group.cells) for group in grid.solved_groups(LayerSet((7,)), folds)] == [10, 45, 1]


def test_a_cell_is_named_after_all_that_tells_it_apart() -> None:
    head = parse_heads(["ep:queries=8,d_out=2"])[0]
    assert Cell("vit", LayerSet((5,)), head, "lars", 0.1, 0.0, "full", 1).name == (
        "vit-layer_05-ep-queries=8,d_out=2-lars-lr=0.1-wd=0-shots=full-seed=1"
    )
    joined = Cell("vit", LayerSet((8, 9, 11)), head, "none", None, None, "0.1", 0)
    assert joined.name == "vit-layer_08+09+11-ep-queries=8,d_out=2-none-shots=0.1-seed=0"
    assert joined.layer == "8+9+11"
    stacked = Cell("vit", LayerSet((8, 9, 11), stacked=True), head, "lars", 0.1, 0.0, "full", 1)
    assert stacked.name == "vit-layer_stack_08+09+11-ep-queries=8,d_out=2-lars-lr=0.1-wd=0-shots=full-seed=1"
    assert (stacked.layer, store_of(stacked.name)) == ("stack:8+9+11", "vit")


def test_a_name_too_long_for_a_file_ends_in_a_hash_of_all_of_it() -> None:
    head = parse_heads(["linear"])[0]
    sets = [LayerSet(tuple(range(n))) for n in range(1, 71)] + [LayerSet((*range(69), 70))]
    cells = [Cell("my-layer_norm", s, head, "lars", lr, 0.0, "full", 1) for s in sets for lr in (0.1, 0.3)]
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names) == 2 * 71
    assert max(len(name.encode()) for name in names) == LONGEST_NAME
    assert len(f"{names[-1]}.safetensors.tmp") == 255
    assert names[-1].startswith("my-layer_norm-layer_00+01+02+") and "~" in names[-1]
    assert {store_of(name) for name in names} == {"my-layer_norm"}
    whole = [name for name in names if "~" not in name]
    assert len(whole) > 80 and all(name.endswith("-wd=0-shots=full-seed=1") for name in whole)


def test_letters_are_not_cut_in_the_middle() -> None:
    for most in range(20, 30):
        name = shortened("ä" * 40, most)
        assert most - 1 <= len(name.encode()) <= most and set(name.partition("~")[0]) == {"ä"}
    assert shortened("ä" * 10, 20) == "ä" * 10


@pytest.mark.parametrize("store", ["vit", "my-layer_norm~a1b2c3"])
def test_the_name_of_a_cell_tells_its_store(store: str) -> None:
    head = parse_heads(["ep:queries=8"])[0]
    assert store_of(Cell(store, LayerSet((8, 11)), head, "lars", 0.1, 0.0, "full", 1).name) == store


def test_names_are_unique_in_the_grid() -> None:
    grid = make_grid(["ep:queries=2|4"], lrs=[0.1, 0.10000001, 1.0, 1e-8], weight_decays=[0.0, 1e-9])
    groups = [
        group
        for layers in (LayerSet((0,)), LayerSet((1,)), LayerSet((0, 1)), LayerSet((0, 1), stacked=True))
        for regime in (make_regime(seeds=(0, 1)), make_regime("1"), make_regime("0.1"))
        for group in grid.trained_groups(layers, regime)
    ]
    names = [cell.name for group in groups for cell in group.cells]
    assert len(set(names)) == len(names) == 2 * 4 * 2 * 4 * 4
    assert not any("/" in name for name in names)


@pytest.mark.parametrize("field", ["lrs", "weight_decays"])
def test_a_value_given_twice_makes_one_cell(field: str) -> None:
    swept: dict[str, list[float]] = {"lrs": [0.1], "weight_decays": [0.0]}
    swept[field] = swept[field] * 2
    groups = make_grid(["linear"], **swept).trained_groups(LayerSet((0,)), make_regime())
    assert [len(group.cells) for group in groups] == [1]
