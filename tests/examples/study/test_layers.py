"""The table over layers at a tiny setting, against the results of its four runs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from tokenprobe.probe.report.compare import Judged
from tokenprobe.probe.run.results import Run

from .kit import check, table

HEADS = ["linear:pool=mean", "linear:pool=cls", "ep:queries=8"]


def test_layers_selected_joined_and_stacked(run_script: Callable[..., Any]) -> None:
    study = run_script("layers", HEADS)
    names, *rows = table(study)
    assert names == ["head", "0", "1", "selected", "− last layer"]
    single, joined, stacked, fusion = (
        figures(Run(study.folder / "runs" / name)) for name in ("single", "joined", "stacked", "fusion")
    )
    reached = {}
    for spec, (head, *cells) in zip(HEADS, rows, strict=False):
        of_layers = single.loc[spec]
        assert head == f"`{spec}`"
        for layer, cell in zip(("0", "1"), cells, strict=False):
            check(cell, of_layers["mean"][layer])
        best = of_layers["val"].idxmax()
        reached[spec] = of_layers["mean"][best], of_layers["std"][best]
        assert cells[2].startswith(f"{best}: ")
        check(cells[2], *reached[spec])
        check(cells[3], *([reached[spec][0] - of_layers["mean"]["1"]] if best != "1" else []))
    names, *rows = rows[len(HEADS) :]
    assert names == ["head", "selected layer", "joined", "− selected", "stacked", "− selected"]
    several = {row[0].strip("`"): row[1:] for row in rows}
    for spec in HEADS:
        check(several[spec][0], *reached[spec])
        check(several[spec][1], *joined.loc[spec, "0+1"][["mean", "std"]])
        check(several[spec][2], joined.loc[spec, "0+1"]["mean"] - reached[spec][0])
    assert several["linear:pool=cls"][3:] == ["–", "–"]
    assert rows[-1][0].startswith("`alf") and rows[-1][1:4] == ["–"] * 3
    for spec, figure in (
        ("ep:queries=8", stacked.loc["ep:queries=8", "stack:0+1"]),
        (rows[-1][0].strip("`"), fusion.iloc[0]),
    ):
        check(several[spec][3], figure["mean"], figure["std"])
        check(several[spec][4], figure["mean"] - reached["ep:queries=8"][0])
    assert (study.out / "images/study_layers_tiny-made.png").exists()


def test_a_layer_is_bold_if_it_differs_from_the_last_one_by_more_than_chance(script: Callable[[str], Any]) -> None:
    """Of 100 images 50 are right on the last layer; on another one some more. McNemar's z is their number's root."""
    layers = script("layers")

    def found(n_right: int) -> tuple[pd.Series, Judged]:
        return pd.Series([n_right / 100]), Judged(np.arange(100).astype(str), (np.arange(100) < n_right).astype(float))

    assert layers.marked(found(52), found(50)) == "52.0"
    assert layers.marked(found(60), found(50)) == "**60.0**"
    assert layers.marked(found(40), found(50)) == "**40.0**"
    assert layers.marked(None, found(50)) == "–"


def figures(run: Run) -> pd.DataFrame:
    """Return mean and deviation of the test accuracy in percent, and the held-out one, by spec and layer."""
    chosen = run.results[run.results["selected"]]
    groups = chosen.groupby([chosen["head"] + ":" + chosen["head_config"], chosen["layer"]])
    tests = groups["test_top1"].agg(["mean", "std"]) * 100
    return tests.assign(val=groups["val_top1"].mean())
