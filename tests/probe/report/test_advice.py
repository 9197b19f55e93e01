"""Warnings: each is given where it should be, and not elsewhere."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tokenprobe.probe.report.advice import warnings_of
from tokenprobe.probe.report.contents import Report
from tokenprobe.probe.report.summary import summarise, tidy

MakeResults = Callable[..., pd.DataFrame]
SOLVED = {"head": "ridge", "head_config": "pool=mean", "optimizer": "eigh", "lr": float("nan")}


def said(results: pd.DataFrame, about: str) -> list[str]:
    cells = tidy(results)
    return [line for line in warnings_of(cells, summarise(cells), {}) if about in line]


def over_rates(selected: float, **changes: Any) -> list[dict[str, Any]]:
    rates = [0.1, 1.0, 10.0]
    return [
        {"lr": rate, "selected": rate == selected, "test": 0.5, "seed": seed} | changes
        for rate in rates
        for seed in range(3)
    ]


@pytest.mark.parametrize(("rate", "where"), [(0.1, "lowest"), (1.0, None), (10.0, "highest")])
def test_a_rate_at_the_edge_of_its_grid(make_results: MakeResults, rate: float, where: str | None) -> None:
    expected = [] if where is None else [
        f"selected base lr {rate:g}, the {where} of its grid: EP, 8 queries (layer 0); "
        "one beyond it may be better: --lr"
    ]  # fmt: skip
    assert said(make_results(*over_rates(rate)), "of its grid") == expected


def test_a_rate_is_at_the_edge_of_its_own_optimizers_grid(make_results: MakeResults) -> None:
    """Rates of two optimizers do not compare."""
    rows = over_rates(10.0) + over_rates(99.0, optimizer="adamw", lr=100.0)
    assert said(make_results(*rows), "of its grid") == said(make_results(*over_rates(10.0)), "of its grid") != []


def test_one_rate_is_no_grid(make_results: MakeResults) -> None:
    assert said(make_results({"test": 0.5}), "of its grid") == []


def test_a_penalty_at_the_edge(make_results: MakeResults) -> None:
    rows = [SOLVED | {"weight_decay": penalty, "selected": penalty == 1.0, "test": 0.5} for penalty in (0.01, 1.0)]
    assert said(make_results(*rows), "selected penalty") == [
        "selected penalty 1, the highest of its fixed grid: ridge regression, mean token (layer 0); "
        "no option goes beyond it"
    ]


@pytest.mark.parametrize(("decay", "where"), [(0.0, None), (0.001, None), (0.01, "highest")])
def test_nothing_is_below_a_weight_decay_of_zero(make_results: MakeResults, decay: float, where: str | None) -> None:
    rows = [{"weight_decay": each, "selected": each == decay, "test": 0.5} for each in (0.0, 0.001, 0.01)]
    assert said(make_results(*rows), "weight decay") == [
        f"selected weight decay {decay:g}, the {where} of its grid: EP, 8 queries (layer 0); "
        "one beyond it may be better: --weight-decay"
    ] * (where is not None)


def test_the_lowest_weight_decay_above_zero_is_at_an_edge(make_results: MakeResults) -> None:
    rows = [{"weight_decay": each, "selected": each == 0.001, "test": 0.5} for each in (0.001, 0.01)]
    assert "0.001, the lowest of its grid" in said(make_results(*rows), "weight decay")[0]


def test_a_rate_below_those_that_diverged_is_at_the_edge_of_the_grid_no_more(make_results: MakeResults) -> None:
    rows = over_rates(1.0)
    for row in rows:
        if row["lr"] == 10.0:
            row |= {"status": "diverged in epoch 1", "test": float("nan")}
    assert said(make_results(*rows), "of its grid") == []


def test_selection_on_few_images(make_results: MakeResults) -> None:
    few, more = over_rates(1.0, shots="1", n_val=10), over_rates(1.0, shots="16", n_val=160)
    alone = [
        SOLVED | {"head": "knn", "head_config": "k=5", "shots": "1", "n_val": 10, "test": 0.5, "seed": s}
        for s in (0, 1)
    ]
    assert said(make_results(*few, *more, *alone), "held-out image") == [
        "with 1 image per class, learning rate is selected on 10 held-out images, "
        "where one image is 10 points: the choice of EP, 8 queries is largely chance; "
        "k-NN, k = 5 needs no held-out image to choose a rate or penalty"
    ]
    assert said(make_results(*few), "held-out image")[0].endswith(
        "largely chance; ncm and ridge need no held-out image: --preset few-labels"
    )
    assert said(make_results(*over_rates(1.0, shots="1", n_val=10, protocol="paper")), "held-out image") == []


def test_a_choice_within_the_shots_and_no_choice_are_no_chance(make_results: MakeResults) -> None:
    of_few = {"shots": "2", "n_val": 20, "test": 0.5}
    within = [SOLVED | of_few | {"weight_decay": decay, "val_loss": 1.0, "selected": decay == 1} for decay in (1, 2)]
    held_out = [row | {"val_loss": float("nan")} for row in within]
    one_rate = of_few | {"lr": 10.0}
    assert said(make_results(*within, one_rate), "largely chance") == []
    (found,) = said(make_results(*held_out), "largely chance")
    assert "the choice of ridge regression, mean token is largely chance; ncm and ridge" in found
    (found,) = said(make_results(*within, *over_rates(1.0, shots="2", n_val=20)), "largely chance")
    assert "; ridge regression, mean token needs no held-out image to choose a rate or penalty" in found
    (found,) = said(make_results(*over_rates(1.0, n_val=20)), "held-out image")
    assert found.startswith("with all training images, learning rate and epoch are selected on 20 held-out images")
    assert said(make_results({"test": 0.5, "n_val": 20, "epochs": 1}), "largely chance") == []


def test_fewer_than_three_seeds(make_results: MakeResults) -> None:
    two = [{"test": 0.5, "seed": seed} for seed in range(2)]
    assert said(make_results(*two), "too few") == [
        "2 seeds of EP, 8 queries: too few to tell how much the results depend on the initial weights; give --seeds 3"
    ]
    assert said(make_results(*over_rates(1.0)), "too few") == []
    assert said(make_results(SOLVED | {"test": 0.5}), "too few") == [], "it draws nothing on all training images"


def test_a_head_that_diverged(make_results: MakeResults) -> None:
    lost = {"status": "diverged in epoch 1", "selected": False}
    assert said(make_results(lost), "diverged") == [
        "EP, 8 queries diverged at every choice everywhere; give lower rates with --lr"
    ]
    assert said(make_results(lost, {"layer": "1", "test": 0.5}), "diverged") == [
        "EP, 8 queries diverged at every choice on 1 of 2 layers and data sets; give lower rates with --lr"
    ]


def test_other_test_images(make_results: MakeResults, make_report: Callable[..., Report], tmp_path: Path) -> None:
    rows = [{"model": f"timm:{name}", "cell": f"{name}-layer_00-1", "test": 0.5, "n_test": 200} for name in "ab"]
    report = make_report(*rows)
    assert not [line for line in report.warnings if "test images" in line]
    other = report.images[report.sources[1]]
    some = {**report.images, report.sources[1]: replace(other, ids=other.ids[:150], labels=other.labels[:150])}
    assert warnings_of(report.cells, report.summary, some)[0] == (
        "test images of made differ (200 of timm:a on made and 200 of timm:b on made; 150 are common): "
        "the figures of these backbones do not compare"
    )
    assert said(make_results(rows[0], rows[1] | {"n_test": 150}), "test images")[0].startswith(
        "test images of made differ (200 of timm:a on made and 150 of timm:b on made): "
    )
    assert said(make_results(*rows), "test images") == [
        "not all runs keep the test images of made, so nothing shows that backbones share them"
    ]
