"""What was selected for each head, and on which images, in words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tokenprobe.probe.report.best import best_line
from tokenprobe.probe.report.choices import choice_lines, choice_of, no_common_images
from tokenprobe.probe.report.summary import tidy
from tokenprobe.probe.run.results import Run
from tokenprobe.probe.run.tables import table_bytes
from tokenprobe.store import Store

from ..kit import fit_made, write_made

MakeResults = Callable[..., pd.DataFrame]
RATES: list[dict[str, Any]] = [{"lr": 1.0}, {"lr": 2.0, "selected": False}]
OF_FEW = {"shots": "4", "n_val": 40, "test": 0.5}
SOLVED = {"lr": float("nan"), "epochs": 1}
RIDGE = [
    OF_FEW | SOLVED | {"head": "ridge", "head_config": "", "weight_decay": decay, "selected_on": "left-out"}
    for decay in (0.1, 1.0)
]
NCM = OF_FEW | SOLVED | {"head": "ncm", "head_config": "", "weight_decay": float("nan"), "selected_on": "left-out"}
WITHIN = "selected on its training images, each scored by a fit without it"


def lines(make_results: MakeResults, *rows: dict[str, Any]) -> list[str]:
    return choice_lines(tidy(make_results(*rows)))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (RATES, "learning rate and epoch are selected on held-out images"),
        ([{"weight_decay": 0.1}, {"weight_decay": 0.2}], "weight decay and epoch are selected on held-out images"),
        ([{"optimizer": "lars"}, {"optimizer": "sgd"}], "optimizer and epoch are selected on held-out images"),
        ([{"layer": "1"}, {"layer": "2"}], "epoch and layer are selected on held-out images"),
        ([{"epochs": 1}], "nothing is selected"),
        ([OF_FEW | rate for rate in RATES], "learning rate is selected on held-out images; the last epoch counts"),
        ([OF_FEW], "nothing is selected; the last epoch counts"),
        ([OF_FEW | {"n_val": 100}], "epoch is selected on held-out images"),
        ([{"n_val": 20}], "epoch is selected on held-out images"),  # all training images: few held-out ones choose too
        (
            [OF_FEW | {"n_val": 0, "protocol": "paper"}],
            "epoch is selected on the test split itself, as published tables report; optimistic by construction",
        ),
        (RIDGE, f"penalty is {WITHIN}"),
        ([row | {"selected_on": "held-out"} for row in RIDGE], "penalty is selected on held-out images"),
        ([row | {"selected_on": "", "val_loss": 1.0} for row in RIDGE], f"penalty is {WITHIN}"),  # an earlier version
        ([NCM], "nothing is selected"),
    ],
)
def test_the_sentence_follows_the_cells(make_results: MakeResults, rows: list[dict[str, Any]], said: str) -> None:
    assert lines(make_results, *({"test": 0.5} | row for row in rows)) == [said]


def test_heads_that_chose_alike_share_a_sentence(make_results: MakeResults) -> None:
    full, lone = {"test": 0.5}, RIDGE[0] | {"shots": "1", "n_val": 10, "selected_on": "held-out"}
    assert lines(make_results, full, OF_FEW, *RIDGE, lone, NCM) == [
        "EP, 8 queries with all training images: epoch is selected on held-out images",
        "EP, 8 queries with 4 images per class: nothing is selected; the last epoch counts",
        f"ridge regression with 4 images per class: penalty is {WITHIN}",
        "ridge regression with 1 image per class; nearest class mean: nothing is selected",
    ]


def test_data_sets_choose_apart(make_results: MakeResults) -> None:
    few, many = ({"dataset": name, "n_val": n_val} for name, n_val in (("a", 40), ("b", 400)))
    assert lines(make_results, OF_FEW | few, OF_FEW | many) == [
        "EP, 8 queries on a: nothing is selected; the last epoch counts",
        "EP, 8 queries on b: epoch is selected on held-out images",
    ]


def test_a_card_tells_a_named_cell_from_a_selected_one(make_results: MakeResults) -> None:
    named = [
        row | {"cell": f"none-layer_{row['layer']}-{row['lr']}", "val_top1": val, "test": 0.5}
        for row, val in (
            ({"layer": "1", "lr": 1.0}, 0.6),
            ({"layer": "1", "lr": 2.0, "selected": False}, 0.5),
            ({"layer": "2", "lr": 1.0}, 0.4),
        )
    ]
    cells = tidy(make_results(*named))
    assert choice_of(cells, "none-layer_1-1.0") == "learning rate, epoch and layer are selected on held-out images"
    for other in ("none-layer_1-2.0", "none-layer_2-1.0"):
        assert choice_of(cells, other) == (
            "this is not the cell that its run selects for this head; its epoch is selected on held-out images"
        )


def test_heads_on_different_images_are_named(make_results: MakeResults, tmp_path: Path) -> None:
    assert list(no_common_images(tidy(make_results(*RIDGE, NCM)))) == []
    published = OF_FEW | {"n_val": 0, "protocol": "paper"}
    assert list(no_common_images(tidy(make_results(*RIDGE, published)))) == []
    twice = [row | {"shots": shots} for shots in ("4", "2") for row in (*RIDGE, OF_FEW)]
    (found,) = no_common_images(tidy(make_results(*twice)))
    assert found.startswith(
        "with 4 images per class and 2 images per class, heads are scored on different images before the test split: "
        "ridge regression on left-out training images and EP, 8 queries on held-out images. "
        "The best of them (--cell best)"
    )
    results = make_results(*(row | {"cell": f"none-layer_0-{row['shots']}-{n}"} for n, row in enumerate(twice)))
    (tmp_path / "heads").mkdir()
    for cell in results["cell"]:
        (tmp_path / "heads" / f"{cell}.safetensors").touch()
    (tmp_path / "results.parquet").write_bytes(table_bytes(results))
    line = best_line(Run(tmp_path), tidy(results))
    assert line is not None and line.startswith("  best on left-out training images or held-out images (--cell best): ")


def test_a_fit_records_the_images_that_it_selected_on(write_store: Callable[..., Store], tmp_path: Path) -> None:
    store, settings = write_made(write_store, tmp_path / "s.zarr"), {"layers": "1", "lr": [1.0], "epochs": 2}
    heads = ["ridge", "knn:k=1", "linear"]
    few = fit_made(store, tmp_path / "few", heads=heads, shots=["full", "4", "1"], **settings).results
    on = few.groupby(["shots", "head"])["selected_on"].unique().map(list)
    held, left = ["held-out"], ["left-out"]
    assert [on["full", head] for head in ("ridge", "knn", "linear")] == [held, held, held]
    assert [on["4", head] for head in ("ridge", "knn", "linear")] == [left, left, held]
    assert [on["1", head] for head in ("ridge", "knn", "linear")] == [held, held, held], "nothing can be left out"
    paper = fit_made(store, tmp_path / "paper", heads=heads, protocol="paper", **settings).results
    assert set(paper["selected_on"]) == {"test"}
