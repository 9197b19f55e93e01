"""The summary's figures against the statistics module and dictionaries."""

import statistics
from collections.abc import Callable
from itertools import product
from typing import Any

import pandas as pd
import pytest

from tokenprobe.probe.report.summary import (
    best_layers,
    head_lines,
    layer_order,
    optimism_line,
    percent,
    shots_order,
    shots_words,
    status_lines,
    summarise,
    tidy,
    with_most_data,
)

MakeResults = Callable[..., pd.DataFrame]
HEADS = [("ep", "queries=8"), ("linear", "pool=mean"), ("plain", "")]
EP, RIDGE = "EP, 8 queries (ep:queries=8)", "ridge regression, class token (ridge:pool=cls)"
LABELS = ["EP, 8 queries", "linear probe, mean token", "plain"]
SEEDS = (0, 1, 2)
DIVERGED = {"status": "diverged in epoch 7", "selected": False}


def make_rows(protocol: str = "select", seeds: tuple[int, ...] = SEEDS) -> list[dict[str, Any]]:
    """Layers 10, 2 and 9 of three heads: figures are best on layer 9 by val, on layer 10 by test.

    Two cells a seed: the second, with ten times the rate, is selected.
    """
    rows = []
    for (number, (head, config)), (layer, val, test), seed, selected in product(
        enumerate(HEADS), (("10", 0.6, 0.7), ("2", 0.3, 0.2), ("9", 0.8, 0.55)), seeds, (False, True)
    ):
        off = 0.01 * number + 0.013 * seed * seed - (0 if selected else 0.1)
        rows.append(
            {
                "layer": layer,
                "head": head,
                "head_config": config,
                "lr": 2.0 if selected else 0.1,
                "weight_decay": 0.5,
                "seed": seed,
                "protocol": protocol,
                "val_top1": val + off if protocol == "select" else float("nan"),
                "test_top1": test + off,
                "peak_test_top1": test + off + (0.025 if protocol == "select" else 0),
                "selected": selected,
                "n_params": 1_383_400 + number,
            }
        )
    return rows


def label(row: dict[str, Any]) -> str:
    return f"{row['head']}:{row['head_config']}" if row["head_config"] else row["head"]


@pytest.mark.parametrize("protocol", ["select", "paper"])
@pytest.mark.parametrize("seeds", [SEEDS, (0,)], ids=["three seeds", "one seed"])
def test_means_and_deviations_are_over_the_seeds_of_selected_cells(
    make_results: MakeResults, protocol: str, seeds: tuple[int, ...]
) -> None:
    rows = make_rows(protocol, seeds)
    summary = summarise(tidy(make_results(*rows)))
    assert len(summary) == 9
    for found in summary.itertuples():
        cells = [r for r in rows if (label(r), r["layer"]) == (found.spec, found.layer) and r["selected"]]
        test = [r["test_top1"] for r in cells]
        assert found.test == pytest.approx(statistics.mean(test), abs=1e-12)
        if len(seeds) == 1:
            assert pd.isna(found.test_std)
        else:
            assert found.test_std == pytest.approx(statistics.stdev(test), abs=1e-12)
        assert found.peak == pytest.approx(statistics.mean(r["peak_test_top1"] for r in cells), abs=1e-12)
        if protocol == "select":
            assert found.val == pytest.approx(statistics.mean(r["val_top1"] for r in cells), abs=1e-12)
        assert (found.lr, found.weight_decay, found.n_seeds, found.protocol) == (2.0, 0.5, len(seeds), protocol)
        assert (found.source, found.shots, found.figure) == ("timm:none on made", "full", "top1")
        assert {(found.n_params, found.flops_forward)} == {(r["n_params"], 21_990_000) for r in cells}


def test_rows_are_by_source_head_shots_and_layer_in_their_order(make_results: MakeResults) -> None:
    heads = [("plain", ""), ("ep", "queries=8")]
    rows = [
        {"model": model, "head": head, "head_config": config, "layer": layer, "shots": shots, "test": 0.5}
        for layer, shots, (head, config), model in product(
            ["10", "8+9", "2"], ["4", "0.5", "16", "full", "0.01"], heads, ["timm:z", "timm:a"]
        )
    ]
    summary = summarise(tidy(make_results(*rows)))
    expected = product(
        ["timm:z on made", "timm:a on made"],
        ["plain", "EP, 8 queries"],
        ["full", "0.5", "0.01", "16", "4"],
        ["2", "10", "8+9"],
    )
    assert [tuple(row) for row in summary[["source", "head", "shots", "layer"]].to_numpy()] == list(expected)


def test_orders() -> None:
    assert sorted(["10", "8+9+10+11", "2", "8+9", "11"], key=layer_order) == ["2", "10", "11", "8+9", "8+9+10+11"]
    ordered = ["full", "0.5", "0.05", "1e-05", "16", "2", "1"]
    assert sorted(["1", "16", "0.05", "1e-05", "full", "0.5", "2"], key=shots_order) == ordered


def test_a_source_is_a_model_and_a_dataset_and_a_store_where_these_are_not_enough(make_results: MakeResults) -> None:
    cells = tidy(
        make_results(
            {"store": "a.zarr", "test": 0.1},
            {"store": "b.zarr", "test": 0.2, "cell": "none~b-layer_00-made"},
            {"store": "c.zarr", "dataset": "other", "test": 0.3, "cell": "none~c-layer_00-made"},
        )
    )
    assert cells["source"].tolist() == [
        "timm:none (a.zarr) on made",
        "timm:none (b.zarr) on made",
        "timm:none on other",
    ]
    assert summarise(cells)["test"].tolist() == [0.1, 0.2, 0.3]


def test_a_name_does_not_act_on_a_terminal(make_results: MakeResults) -> None:
    cells = tidy(make_results({"dataset": "folder:\x1b[2Jbirds\n", "test": 0.5}))
    assert set(cells["source"]) == {r"timm:none on folder:\x1b[2Jbirds\n"}


def test_a_store_that_was_moved_between_two_fits_is_one_source(make_results: MakeResults) -> None:
    cells = tidy(make_results({"store": "old.zarr", "test": 0.1}, {"store": "new.zarr", "layer": "1", "test": 0.2}))
    assert cells["source"].tolist() == ["timm:none on made"] * 2
    other = {"store": "b.zarr", "test": 0.3, "cell": "none~b-layer_00-made"}
    moved = ({"store": "old.zarr", "test": 0.1}, other, {"store": "new.zarr", "layer": "1", "test": 0.2})
    first, second, third = tidy(make_results(*moved))["source"]
    assert first == third == "timm:none (new.zarr) on made" and second == "timm:none (b.zarr) on made"


def test_the_figure_is_map_where_images_have_several_labels(make_results: MakeResults) -> None:
    several = {"dataset": "several", "val_map": 0.31, "test_map": 0.33, "peak_test_map": 0.36}
    lost = {"dataset": "several", "layer": "1", **DIVERGED}
    summary = summarise(tidy(make_results({"test": 0.7}, several, lost)))
    assert summary["figure"].tolist() == ["top1", "map", "map"]
    assert summary[["val", "test", "peak"]].to_numpy()[:2].tolist() == [[0.7, 0.7, 0.7], [0.31, 0.33, 0.36]]
    assert head_lines(summary[1:])[0].startswith(f"{EP}: layer 0, base lr 2, test mAP 33.0 % (peak")


def test_where_every_choice_diverged_nothing_is_selected(make_results: MakeResults) -> None:
    rows = [
        {"layer": "0", "test": 0.5},
        {"layer": "1", "val_top1": 0.9, **DIVERGED},
        {"layer": "1", "lr": 30.0, **DIVERGED},
    ]
    summary = summarise(tidy(make_results(*rows)))
    assert summary["n_seeds"].tolist() == [1, 0]
    assert summary["test"].isna().tolist() == [False, True]
    assert best_layers(summary)["layer"].tolist() == ["0"]


def test_a_head_that_diverged_everywhere_says_so(make_results: MakeResults) -> None:
    cells = tidy(make_results({"layer": "1", **DIVERGED}, {"layer": "0", **DIVERGED}, {"head": "fine", "test": 0.5}))
    summary = summarise(cells)
    assert head_lines(summary)[0] == f"{EP}: diverged at every choice, on every layer"
    assert head_lines(summary)[1].startswith("fine:queries=8: layer 0,")
    only = cells[cells["head"] != "fine:queries=8"]
    assert optimism_line(only, summarise(only)) is None


def test_the_best_layer_is_chosen_by_val_and_not_by_test(make_results: MakeResults) -> None:
    best = best_layers(summarise(tidy(make_results(*make_rows()))))
    assert best[["head", "layer"]].to_numpy().tolist() == [[name, "9"] for name in LABELS]
    published = best_layers(summarise(tidy(make_results(*make_rows("paper")))))
    assert published["layer"].tolist() == ["10"] * 3


def test_the_best_layer_is_chosen_at_each_number_of_shots(make_results: MakeResults) -> None:
    vals = {("full", "2"): 0.5, ("full", "9"): 0.6, ("16", "2"): 0.4, ("16", "9"): 0.3}
    rows = [{"shots": shots, "layer": layer, "val_top1": val, "test": 1 - val} for (shots, layer), val in vals.items()]
    best = best_layers(summarise(tidy(make_results(*rows))))
    assert best[["shots", "layer"]].to_numpy().tolist() == [["full", "9"], ["16", "2"]]


def test_the_most_data_is_found_for_each_source(make_results: MakeResults) -> None:
    asked = [("timm:a", "16"), ("timm:a", "full"), ("timm:b", "4"), ("timm:b", "0.1"), ("timm:b", "0.5")]
    summary = summarise(tidy(make_results(*({"model": model, "shots": shots, "test": 0.5} for model, shots in asked))))
    assert with_most_data(summary)[["source", "shots"]].to_numpy().tolist() == [
        ["timm:a on made", "full"],
        ["timm:b on made", "0.5"],
    ]


def test_percent() -> None:
    assert [percent(0.12345), percent(0.5, 0.0123), percent(float("nan"))] == ["12.3", "50.0 ± 1.2", "diverged"]


def test_a_line_a_head_says_what_a_peak_on_the_test_split_would_add(make_results: MakeResults) -> None:
    assert head_lines(summarise(tidy(make_results(*make_rows(seeds=(1,))))))[0] == (
        f"{EP}: layer 9, base lr 2, weight decay 0.5, test top-1 56.3 % "
        "(peak over epochs 58.8 %, optimism +2.5); 1,383,400 parameters, 21,990,000 FLOP per image"
    )
    mean, std = (100 * f([0.55, 0.563, 0.602]) for f in (statistics.mean, statistics.stdev))
    assert f"test top-1 {mean:.1f} ± {std:.1f} % (peak" in head_lines(summarise(tidy(make_results(*make_rows()))))[0]
    assert "optimism +0.0)" in head_lines(summarise(tidy(make_results(*make_rows("paper")))))[0]


def test_the_selected_optimizer_is_named_where_there_are_several(make_results: MakeResults) -> None:
    rows = [{"optimizer": "lars", "test": 0.7, "selected": False}, {"optimizer": "adamw", "lr": 0.001, "test": 0.8}]
    summary = summarise(tidy(make_results(*rows)))
    assert summary[["optimizer", "n_optimizers", "n_choices", "n_seeds"]].to_numpy().tolist() == [["adamw", 2, 2, 1]]
    assert head_lines(summary)[0].startswith(f"{EP}: layer 0, adamw, base lr 0.001, test top-1 80.0 % (")
    same_rate = summarise(tidy(make_results(rows[0] | {"lr": 0.001}, rows[1])))
    assert same_rate["n_choices"].tolist() == [2]


def test_heads_without_steps_have_a_penalty_or_nothing_to_say(make_results: MakeResults) -> None:
    nan = float("nan")
    ridge = {
        "head": "ridge",
        "head_config": "pool=cls",
        "lr": nan,
        "weight_decay": 0.01,
        "test": 0.6,
        "n_params": 7_690,
    }
    knn = {"head": "knn", "head_config": "k=20", "lr": nan, "weight_decay": nan, "test": 0.55, "n_params": 0}
    lines = head_lines(summarise(tidy(make_results(ridge, knn | {"flops_forward": pd.NA}))))
    assert lines == [
        f"{RIDGE}: layer 0, penalty 0.01, test top-1 60.0 %; 7,690 parameters, 21,990,000 FLOP per image",
        "k-NN, k = 20 (knn:k=20): layer 0, test top-1 55.0 %; 0 parameters",
    ]
    unknown = head_lines(summarise(tidy(make_results(knn | {"flops_forward": pd.NA, "n_params": pd.NA}))))
    assert unknown == ["k-NN, k = 20 (knn:k=20): layer 0, test top-1 55.0 %"]


def test_the_grids_highest_peak_is_over_every_cell_of_the_source_and_shots(make_results: MakeResults) -> None:
    rows = [
        {"layer": "0", "val_top1": 0.6, "test_top1": 0.52, "peak_test_top1": 0.53, "seed": 0},
        {"layer": "0", "val_top1": 0.6, "test_top1": 0.54, "peak_test_top1": 0.55, "seed": 1},
        {"layer": "1", "head": "x", "val_top1": 0.59, "test_top1": 0.56, "peak_test_top1": 0.57},
        {"layer": "1", "lr": 30.0, "test_top1": 0.1, "peak_test_top1": 0.583, "selected": False},
        {"shots": "16", "val_top1": 0.9, "test_top1": 0.9, "peak_test_top1": 0.9},
        {"model": "timm:other", "val_top1": 0.9, "test_top1": 0.9, "peak_test_top1": 0.9},
    ]
    cells = tidy(make_results(*rows))
    summary = summarise(cells)
    asked = summary[(summary["source"] == "timm:none on made") & (summary["shots"] == "full")]
    assert optimism_line(cells, asked) == (
        "over the whole grid: the highest peak of any head, layer, rate and seed is 58.3 %, "
        "optimism +5.3 over the selected one, EP, 8 queries on layer 0"
    )
    published = tidy(make_results(*make_rows("paper")))
    assert optimism_line(published, summarise(published)) is None


def test_what_diverged_and_what_did_not_converge_is_counted(make_results: MakeResults) -> None:
    nan = float("nan")
    logreg = {"head": "logreg", "lr": nan, "test": 0.5, "selected": False}
    rows = [
        {"test": 0.5},
        {"lr": 30.0, **DIVERGED},
        {"lr": 10.0, **DIVERGED},
        {"lr": 30.0, "layer": "1", **DIVERGED},
        {"lr": 0.1, "layer": "1", **DIVERGED, "status": "diverged in epoch 1: 3 of 9 images"},
        {"head": "knn", "lr": nan, "layer": "10", **DIVERGED, "status": "diverged: 3 of 9 images"},
        {"head": "knn", "lr": nan, "layer": "2", **DIVERGED, "status": "diverged: 1 of 9 images"},
        logreg | {"weight_decay": 0.1, "status": "not converged in 1000 iterations (gradient 0.02)"},
        logreg | {"weight_decay": 1e-5, "status": "not converged in 1000 iterations (gradient 0.3)"},
        logreg | {"weight_decay": 10.0, "status": "converged in 37 iterations", "selected": True},
        {"head": "ridge", "lr": nan, "test": 0.4, "status": "solved"},
    ]
    assert status_lines(tidy(make_results(*rows))) == [
        "3 of 11 cells diverged (base lr 10, 30)",
        "2 of 11 cells diverged (layer 1, 10): 3 of 9 images; probe verify names damaged files",
        "1 of 11 cells diverged (layer 2): 1 of 9 images; probe verify names damaged files",
        "2 of 3 logreg cells did not converge (penalty 1e-05, 0.1)",
    ]
    assert status_lines(tidy(make_results({"test": 0.5}))) == []


def test_images_without_scores_are_counted(make_results: MakeResults) -> None:
    rows = [
        {"layer": "2", "test": 0.5, "test_unscored": 1},
        {"layer": "10", "test": 0.5, "test_unscored": 2, "val_unscored": 1},
        {"layer": "3", "status": "diverged in epoch 1", "test_unscored": pd.NA, "val_unscored": pd.NA},
    ]
    told = "have scores that are not finite for"
    assert status_lines(tidy(make_results(*rows)))[1:] == [
        f"1 of 3 cells (layer 10) {told} 1 held-out image, counted as an error; probe verify names damaged files",
        f"2 of 3 cells (layer 2, 10) {told} 2 test images, counted as errors; probe verify names damaged files",
    ]


def test_shots_in_words() -> None:
    assert [shots_words(shots) for shots in ("full", "0.01", "0.125", "1e-05", "16", "1")] == [
        "all training images",
        "1 % of the training images",
        "12.5 % of the training images",
        "0.001 % of the training images",
        "16 images per class",
        "1 image per class",
    ]


def test_a_run_of_an_earlier_version_loses_the_step_cost_of_solved_heads(make_results: MakeResults) -> None:
    cells = tidy(make_results({"test": 0.5}, {"test": 0.5, "head": "ridge", "lr": float("nan")}))
    assert cells["flops_train"].iloc[0] == 65_970_000 and pd.isna(cells["flops_train"].iloc[1])
