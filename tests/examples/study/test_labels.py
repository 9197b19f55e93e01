"""The table of few labels at a tiny setting, against the results of its run and scipy's interval."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from tokenprobe.probe.run.results import Run

from .kit import check, table


def test_differences_on_subsets_are_paired_by_seed(
    script: Callable[[str], Any], run_script: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script("labels"), "SHOTS", ["1", "4", "full"])
    study = run_script("labels", ["ridge", "linear:pool=mean", "ep:queries=2"])
    names, *rows = table(study)
    assert names == ["head, training images per class", "1", "4", "full"]
    assert [row[0] for row in rows] == [
        "`ridge:pool=mean`", "`linear:pool=mean`", "− ridge", "`ep:queries=2`", "− ridge", "− linear",
    ]  # fmt: skip
    results = Run(study.folder / "runs/labels").results
    chosen = results[results["selected"]].pivot(index=["shots", "seed"], columns="head", values="test_top1") * 100
    for place, shots in enumerate(names[1:], start=1):
        by_seed = chosen.loc[shots]
        for row, head in ((0, "ridge"), (1, "linear"), (3, "ep")):
            deviation = [by_seed[head].std()] if by_seed[head].notna().all() else []
            check(rows[row][place], by_seed[head].mean(), *deviation)
        for row, head, base in ((2, "linear", "ridge"), (4, "ep", "ridge"), (5, "ep", "linear")):
            apart = (by_seed[head] - by_seed[base].ffill()).to_numpy()
            ends = ttest_1samp(apart, 0).confidence_interval() if shots != "full" else ()
            check(rows[row][place], apart.mean(), *ends)
    assert "±" in rows[0][1] and "±" not in rows[0][3]  # on all images nothing of ridge is drawn
    assert "Settings of the preset `few-labels`." in study.page.read_text()
    assert (study.out / "images/study_labels_tiny-made.png").exists()


def test_the_interval_over_seeds_is_students(script: Callable[[str], Any]) -> None:
    values = np.array([0.1, 0.4, 0.2, 0.3, 0.9])
    found, expected = script("labels").over_seeds(values), ttest_1samp(values, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.value == values.mean()
