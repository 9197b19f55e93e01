"""The table over layers at a tiny setting, against the results of its four runs."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from tokenprobe.probe.run.results import Run

from .kit import check, table

HEADS = ["linear:pool=mean", "linear:pool=cls", "ep:queries=8"]


def test_layers_selected_joined_and_stacked(run_script: Callable[..., Any]) -> None:
    study = run_script("layers", HEADS)
    names, *rows = table(study)
    assert names == ["head", "0", "1", "selected", "− last layer", "joined", "− selected", "stacked", "− selected"]
    of_head = {row[0].strip("`"): row[1:] for row in rows}
    single, joined, stacked, fusion = (
        figures(Run(study.folder / "runs" / name)) for name in ("single", "joined", "stacked", "fusion")
    )
    for spec in HEADS:
        of_layers, row = single.loc[spec], of_head[spec]
        for layer, cell in zip(("0", "1"), row[:2], strict=True):
            check(cell, of_layers["mean"][layer])
        best = of_layers["val"].idxmax()
        reached = of_layers["mean"][best]
        assert row[2].startswith(f"{best}: ")
        check(row[2], reached, of_layers["std"][best])
        check(row[3], *([reached - of_layers["mean"]["1"]] if best != "1" else []))
        check(row[4], *joined.loc[spec, "0+1"][["mean", "std"]])
        check(row[5], joined.loc[spec, "0+1"]["mean"] - reached)
    ep = single.loc["ep:queries=8"]
    assert of_head["linear:pool=cls"][6:] == ["–", "–"]
    assert rows[-1][0].startswith("`alf") and rows[-1][1:7] == ["–"] * 6
    for spec, figure in (("ep:queries=8", stacked.iloc[0]), (rows[-1][0].strip("`"), fusion.iloc[0])):
        check(of_head[spec][6], figure["mean"], figure["std"])
        check(of_head[spec][7], figure["mean"] - ep["mean"][ep["val"].idxmax()])
    assert (study.out / "images/study_layers_tiny-made.png").exists()


def figures(run: Run) -> pd.DataFrame:
    """Return mean and deviation of the test accuracy in percent, and the held-out one, by spec and layer."""
    chosen = run.results[run.results["selected"]]
    groups = chosen.groupby([chosen["head"] + ":" + chosen["head_config"], chosen["layer"]])
    tests = groups["test_top1"].agg(["mean", "std"]) * 100
    return tests.assign(val=groups["val_top1"].mean())
