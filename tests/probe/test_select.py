"""Which epoch and which cell is reported, against looking at plain lists."""

import pandas as pd
import pytest

from tokenprobe.probe.select import EpochTracker, mark_selected

VAL, TEST, TOP5 = [0.2, 0.5, 0.4, 0.5], [0.1, 0.3, 0.9, 0.6], [0.7, 0.8, 0.95, 0.9]


def test_select_reports_the_first_best_epoch_on_held_out_images() -> None:
    tracker = EpochTracker("select")
    assert [tracker.add(*epoch) for epoch in zip(VAL, TEST, TOP5, strict=True)] == [True, True, False, False]
    assert tracker.row() == {
        "val_top1": 0.5,
        "test_top1": 0.3,
        "test_top5": 0.8,
        "last_test_top1": 0.6,
        "peak_test_top1": 0.9,
        "best_epoch": 2,
    }


def test_paper_reports_the_best_epoch_on_the_test_split() -> None:
    tracker = EpochTracker("paper")
    improved = [tracker.add(None, top1, top5) for top1, top5 in zip(TEST, TOP5, strict=True)]
    assert improved == [True, True, True, False]
    assert tracker.row() == {
        "val_top1": None,
        "test_top1": 0.9,
        "test_top5": 0.95,
        "last_test_top1": 0.6,
        "peak_test_top1": 0.9,
        "best_epoch": 3,
    }


@pytest.mark.parametrize(("protocol", "expected"), [("select", {1, 4, 5}), ("paper", {0, 4, 6})])
def test_one_cell_is_selected_of_each_group_by_the_protocols_figure(protocol: str, expected: set[int]) -> None:
    cells = pd.DataFrame(
        {
            "head": ["a", "a", "a", "b", "b", "a", "a"],
            "seed": [0, 0, 0, 0, 0, 1, 1],
            "val_top1": [0.4, 0.6, 0.6, 0.1, 0.2, 0.9, 0.8],
            "test_top1": [0.9, 0.5, 0.8, 0.1, 0.3, 0.1, 0.7],
            "protocol": protocol,
            "lr": [0.1, 0.3, 1.0, 0.1, 0.3, 0.1, 0.3],
            "weight_decay": 0.0,
        }
    )
    if protocol == "paper":
        cells["val_top1"] = None
    selected = mark_selected(cells, ["head", "seed"])
    assert set(selected[selected].index) == expected
    assert selected.dtype == bool


def test_one_rate_is_selected_for_all_seeds_by_their_mean() -> None:
    """Seed 0 alone would take 0.1, seed 1 alone 0.3; over both 0.3 is better. Of equals the smallest decay."""
    cells = pd.DataFrame(
        [
            {"head": "a", "seed": seed, "lr": lr, "weight_decay": decay, "val_top1": val, "protocol": "select"}
            for decay in (0.5, 0.0)
            for seed, lr, val in ((0, 0.1, 0.6), (0, 0.3, 0.5), (1, 0.1, 0.2), (1, 0.3, 0.4))
        ]
    ).assign(test_top1=0.0)
    selected = cells[mark_selected(cells, ["head"])]
    assert selected[["seed", "lr", "weight_decay"]].to_numpy().tolist() == [[0, 0.3, 0.0], [1, 0.3, 0.0]]
