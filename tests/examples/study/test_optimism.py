"""The peak on the test split at a tiny setting, against the histories of the cells."""

from collections.abc import Callable
from typing import Any

from tokenprobe.probe.run.results import Run

from .kit import check, table


def test_the_peak_is_the_best_epoch_and_rate_of_each_seed(run_script: Callable[..., Any]) -> None:
    study = run_script("optimism", ["linear:pool=mean", "ep:queries=2"])
    rows = table(study)[1:]
    run = Run(study.folder / "runs/select")
    history = run.history.merge(run.results[["cell", "head", "seed"]], on="cell")
    peaks = 100 * history.groupby(["head", "seed"])["test_top1"].max()
    chosen = run.results[run.results["selected"]].set_index(["head", "seed"])["test_top1"] * 100
    for row, head in zip(rows, ("linear", "ep"), strict=True):
        optimism = peaks[head] - chosen[head]
        for cell, values in zip(row[1:4], (chosen[head], peaks[head], optimism), strict=True):
            check(cell, values.mean(), values.std())
    published = Run(study.folder / "runs/published").results
    assert set(published["lr"]) == {0.1} and set(published["protocol"]) == {"paper"}
