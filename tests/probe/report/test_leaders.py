"""The comparison of backbones and heads: who leads, what ties, and what the answer says."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tokenprobe.probe.report.compare import difference
from tokenprobe.probe.report.contents import Report
from tokenprobe.probe.report.leaders import points

MakeReport = Callable[..., Report]
A, B, C = ({"model": f"timm:{name}", "cell": f"{name}-layer_00-1"} for name in "abc")


def test_the_best_and_what_ties_with_it_lead(make_report: MakeReport) -> None:
    report = make_report(A | {"test": 0.7}, B | {"test": 0.69, "shift": 30}, C | {"test": 0.5})
    found = report.leaders.set_index("backbone")
    assert found["leads"].tolist() == [True, True, False]
    assert found["behind"].tolist() == pytest.approx([0, -0.01, -0.2])
    keys = [(row.source, row.head, row.shots, row.layer) for row in report.leaders.itertuples()]
    for place, key in enumerate(keys[1:], start=1):
        expected = difference(report.judged[key], report.judged[keys[0]])
        assert expected is not None
        row = report.leaders.loc[place]
        assert (row["behind_low"], row["behind_high"]) == (expected.low, expected.high) and row["n_paired"] == 200
    assert found.loc["timm:b", "behind_low"] < 0 < found.loc["timm:b", "behind_high"]
    assert found.loc["timm:c", "behind_high"] < 0
    assert (found["low"] < found["test"]).all() and (found["test"] < found["high"]).all()


def test_the_answer_names_the_best_backbone_with_its_interval(make_report: MakeReport) -> None:
    report = make_report(A | {"test": 0.5}, B | {"test": 0.7})
    first, second = report.answers
    assert first == "Best backbone: timm:b, test top-1 70.0 %, EP, 8 queries on layer 0"
    assert second.startswith("  timm:a, EP, 8 queries on layer 0: 50.0 %, \N{MINUS SIGN}20.0 points (95 % interval")
    assert "chance" not in second


def test_the_answer_says_what_ties(make_report: MakeReport) -> None:
    report = make_report(A | {"test": 0.7}, B | {"test": 0.69, "shift": 30}, C | {"test": 0.5})
    assert report.answers[0] == (
        "No single best backbone: timm:a; timm:b tie. Highest is timm:a, test top-1 70.0 %, EP, 8 queries on layer 0"
    )
    assert report.answers[1].endswith("), may be chance") and report.answers[2].startswith("  timm:c")


def test_each_backbone_is_represented_by_the_head_that_validation_selects(make_report: MakeReport) -> None:
    """Not by the head with the highest test figure."""
    other = {"head": "aim", "head_config": "heads=4"}
    report = make_report(
        A | {"test": 0.6, "val_top1": 0.7},
        A | other | {"cell": "a-layer_00-2", "test": 0.9, "val_top1": 0.6},
        B | {"test": 0.5, "val_top1": 0.5},
    )
    assert report.answers[0] == "Best backbone: timm:a, test top-1 60.0 %, EP, 8 queries on layer 0"


def test_a_head_selected_on_the_test_split_represents_no_backbone_that_has_others(make_report: MakeReport) -> None:
    published = {"head": "aim", "head_config": "heads=4", "protocol": "paper"}
    report = make_report(
        A | {"test": 0.6, "val_top1": 0.7},
        A | published | {"cell": "a-layer_00-2", "test": 0.9},
        B | {"test": 0.5, "val_top1": 0.5},
    )
    assert report.answers[0] == "Best backbone: timm:a, test top-1 60.0 %, EP, 8 queries on layer 0"


def test_one_backbone_is_asked_for_its_best_head(make_report: MakeReport) -> None:
    report = make_report({"test": 0.6}, {"head": "aim", "head_config": "heads=4", "test": 0.8})
    assert report.answers[0] == "Best head: AIM, 4 heads, test top-1 80.0 %, layer 0"
    assert report.leaders["leads"].tolist() == [False, True]


def test_data_sets_are_not_compared(make_report: MakeReport) -> None:
    rows: list[dict[str, Any]] = [
        row | {"dataset": data, "test": test} for data, test in (("x", 0.8), ("y", 0.4)) for row in (A, B)
    ]
    for number, row in enumerate(rows):
        row |= {"cell": f"{row['cell'][0]}{row['dataset']}-layer_00-1", "test": row["test"] - 0.2 * (number % 2)}
    report = make_report(*rows)
    assert report.leaders["leads"].tolist() == [True, False, True, False]
    assert [line.split(",")[0] for line in report.answers if not line.startswith(" ")] == [
        "Best backbone on x: timm:a",
        "Best backbone on y: timm:a",
    ]


def test_without_predictions_nothing_leads_and_the_answer_says_why(make_report: MakeReport) -> None:
    report = make_report(A | {"test": 0.7}, B | {"test": 0.5}, keeps=False)
    assert not report.leaders["leads"].any() and report.leaders[["low", "behind_low", "n_paired"]].isna().all(axis=None)
    assert report.answers == [
        "Highest backbone: timm:a, test top-1 70.0 %, EP, 8 queries on layer 0",
        "  timm:b, EP, 8 queries on layer 0: 50.0 %, \N{MINUS SIGN}20.0",
        "  some differences have no interval: test images differ, or a run of an earlier version does not keep what "
        "its cells predict; fit it again with another --out",
    ]


def test_several_labels_have_no_intervals(make_report: MakeReport) -> None:
    rows = [row | {"test_map": value, "val_map": 0.4, "peak_test_map": 0.4} for row, value in ((A, 0.4), (B, 0.3))]
    report = make_report(*rows, keeps=False)
    assert report.answers[-1] == (
        "  an image with several labels is not right or wrong, so differences of mAP have no interval"
    )


def test_what_diverged_does_not_lead(make_report: MakeReport) -> None:
    lost = {"status": "diverged in epoch 1", "selected": False}
    report = make_report(A | {"test": 0.5}, B | lost)
    assert report.answers == [] and report.leaders["leads"].tolist() == [False, False]


def test_seeds_are_averaged(make_report: MakeReport) -> None:
    rows = [A | {"cell": f"a-layer_00-{seed}", "seed": seed, "test": 0.5 + 0.1 * seed} for seed in range(3)]
    report = make_report(*rows)
    (judged,) = report.judged.values()
    assert judged.right.mean() == pytest.approx(0.6) and set(judged.right) == {0, 1 / 3, 2 / 3, 1}
    assert pd.isna(report.leaders["behind_low"]).all() and np.isclose(report.leaders["test"], 0.6).all()


def test_points_have_a_sign() -> None:
    assert [points(value) for value in (0.1234, -0.02, 0.0001)] == ["+12.3", "\N{MINUS SIGN}2.0", "0.0"]
