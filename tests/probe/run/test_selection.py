"""Which epoch and which cell is reported, against looking at plain lists."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tokenprobe.probe.run.selection import EpochTracker, mark_selected, score_columns

VAL, TEST, TOP5 = [0.2, 0.5, 0.4, 0.5], [0.1, 0.3, 0.9, 0.6], [0.7, 0.8, 0.95, 0.9]


def tracked(protocol: str, epochs: list[int] | None = None) -> tuple[EpochTracker, list[bool]]:
    tracker = EpochTracker(protocol)
    improved = [
        tracker.add(epoch, {"top1": val} if protocol == "select" else None, {"top1": top1, "top5": top5})
        for epoch, val, top1, top5 in zip(epochs or [1, 2, 3, 4], VAL, TEST, TOP5, strict=True)
    ]
    return tracker, improved


def test_select_reports_the_first_best_epoch_on_held_out_images() -> None:
    tracker, improved = tracked("select", [10, 20, 30, 40])
    assert improved == [True, True, False, False]
    assert tracker.row() == {
        "val_top1": 0.5,
        "test_top1": 0.3,
        "test_top5": 0.8,
        "last_test_top1": 0.6,
        "peak_test_top1": 0.9,
        "best_epoch": 20,
        "status": "trained",
    }


def test_paper_reports_the_best_epoch_on_the_test_split() -> None:
    tracker, improved = tracked("paper")
    assert improved == [True, True, True, False]
    assert tracker.row() == {
        "test_top1": 0.9,
        "test_top5": 0.95,
        "last_test_top1": 0.6,
        "peak_test_top1": 0.9,
        "best_epoch": 3,
        "status": "trained",
    }


def test_the_last_epoch_counts_where_no_figure_picks_one() -> None:
    tracker = EpochTracker("select", picks=False)
    improved = [tracker.add(n, {"top1": v}, {"top1": t}) for n, (v, t) in enumerate(zip(VAL, TEST, strict=True), 1)]
    assert improved == [True] * 4
    row = tracker.row()
    assert (row["best_epoch"], row["val_top1"], row["test_top1"], row["peak_test_top1"]) == (4, 0.5, 0.6, 0.9)


def test_images_with_several_labels_are_selected_by_mean_average_precision() -> None:
    tracker = EpochTracker("select")
    for epoch, (val, test) in enumerate(zip(VAL, TEST, strict=True), start=1):
        tracker.add(epoch, {"map": val}, {"map": test})
    assert tracker.row() == {
        "val_map": 0.5, "test_map": 0.3, "last_test_map": 0.6, "peak_test_map": 0.9, "best_epoch": 2,
        "status": "trained",
    }  # fmt: skip


def test_a_figure_that_is_not_a_number_is_not_the_best() -> None:
    tracker = EpochTracker("select")
    improved = [tracker.add(n, {"map": val}, {"map": 0.5}) for n, val in enumerate([np.nan, 0.1, np.nan, 0.2], start=1)]
    assert improved == [True, True, False, True]
    assert tracker.row()["best_epoch"] == 4


def test_a_cell_that_diverged_keeps_the_figures_from_before() -> None:
    tracker, _ = tracked("select")
    tracker.diverged = 5
    assert tracker.row()["status"] == "diverged in epoch 5" and tracker.row()["test_top1"] == 0.3
    at_once = EpochTracker("select", diverged=1)
    assert at_once.row() == {"best_epoch": None, "status": "diverged in epoch 1"}


def test_what_is_scored_once_is_its_own_last_and_peak() -> None:
    scores = {"top1": 0.5, "top5": 0.9}
    assert score_columns({"top1": 0.4, "top5": 1.0}, scores) == {
        "val_top1": 0.4, "test_top1": 0.5, "test_top5": 0.9, "last_test_top1": 0.5, "peak_test_top1": 0.5,
    }  # fmt: skip
    assert "val_top1" not in score_columns(None, scores)


def table(**columns: Any) -> pd.DataFrame:
    absent = {f"{split}_{name}": np.nan for split in ("val", "test") for name in ("top1", "map")} | {"val_loss": np.nan}
    n_rows = len(columns["lr"])
    return pd.DataFrame(
        absent | {"optimizer": "lars", "weight_decay": 0.0, "status": "trained"} | columns, index=range(n_rows)
    )


@pytest.mark.parametrize("name", ["top1", "map"])
@pytest.mark.parametrize(("protocol", "expected"), [("select", {1, 4, 5}), ("paper", {0, 4, 6})])
def test_one_cell_is_selected_of_each_group_by_the_protocols_figure(
    protocol: str, expected: set[int], name: str
) -> None:
    figures = {
        f"val_{name}": [0.4, 0.6, 0.6, 0.1, 0.2, 0.9, 0.8],
        f"test_{name}": [0.9, 0.5, 0.8, 0.1, 0.3, 0.1, 0.7],
    }
    if protocol == "paper":
        figures[f"val_{name}"] = [np.nan] * 7
    cells = table(
        head=["a", "a", "a", "b", "b", "a", "a"],
        seed=[0, 0, 0, 0, 0, 1, 1],
        protocol=protocol,
        lr=[0.1, 0.3, 1.0, 0.1, 0.3, 0.1, 0.3],
        **figures,
    )
    selected = mark_selected(cells, ["head", "seed"])
    assert set(selected[selected].index) == expected
    assert selected.dtype == bool


def test_one_rate_is_selected_for_all_seeds_by_their_mean() -> None:
    """Seed 0 alone would take 0.1, seed 1 alone 0.3; over both 0.3 is better. Of equals the smallest decay."""
    rows = [
        (seed, lr, decay, val)
        for decay in (0.5, 0.0)
        for seed, lr, val in ((0, 0.1, 0.6), (0, 0.3, 0.5), (1, 0.1, 0.2), (1, 0.3, 0.4))
    ]
    seeds, lrs, decays, vals = (list(column) for column in zip(*rows, strict=True))
    cells = table(head="a", seed=seeds, lr=lrs, weight_decay=decays, val_top1=vals, protocol="select")
    selected = cells[mark_selected(cells, ["head"])]
    assert selected[["seed", "lr", "weight_decay"]].to_numpy().tolist() == [[0, 0.3, 0.0], [1, 0.3, 0.0]]


def test_one_optimizer_is_selected_with_its_rate() -> None:
    """The same head with another optimizer is another choice, not another seed."""
    cells = table(
        optimizer=["lars", "lars", "adamw", "adamw", "adamw"],
        lr=[1.0, 10.0, 0.1, 0.1, 1.0],
        weight_decay=[0.0, 0.0, 0.0, 0.5, 0.0],
        val_top1=[0.6, 0.7, 0.5, 0.8, 0.75],
        head="a",
        protocol="select",
    )
    assert mark_selected(cells, ["head"]).tolist() == [False, False, False, True, False]


def test_a_rate_at_which_a_seed_diverged_is_not_selected() -> None:
    cells = table(
        head=["a", "a", "a", "a", "b"],
        lr=[1.0, 1.0, 0.1, 0.1, 9.0],
        val_top1=[0.9, 0.8, 0.3, 0.2, np.nan],
        status=["trained", "diverged in epoch 3", "trained", "trained", "diverged in epoch 1"],
        protocol="select",
    )
    assert mark_selected(cells, ["head"]).tolist() == [False, False, True, True, False]
    assert not mark_selected(cells[4:], ["head"]).any()


def test_heads_without_rates_are_selected_too() -> None:
    """k-NN has neither rate nor decay; ridge has its penalty as decay."""
    cells = table(
        head=["knn", "ridge", "ridge"],
        lr=[np.nan] * 3,
        weight_decay=[np.nan, 0.1, 1.0],
        val_top1=[0.5, 0.6, 0.7],
        protocol="select",
    )
    assert mark_selected(cells, ["head"]).tolist() == [True, False, True]


def test_the_least_loss_is_selected_where_all_cells_of_a_group_have_one() -> None:
    cells = table(
        head=["ridge"] * 4 + ["logreg"] * 2,
        lr=[np.nan] * 6,
        seed=[0, 1, 0, 1, 0, 0],
        weight_decay=[0.1, 0.1, 1.0, 1.0, 0.1, 1.0],
        val_top1=[0.9, 0.9, 0.2, 0.2, 0.9, 0.2],
        val_loss=[3.0, 1.0, 0.5, 2.0, np.nan, 0.1],
        protocol="select",
    )
    assert mark_selected(cells, ["head"]).tolist() == [False, False, True, True, True, False]
