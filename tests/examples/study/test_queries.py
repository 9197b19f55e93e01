"""The table of queries at a tiny setting, against the results of its run and a count of parameters by hand."""

from collections.abc import Callable
from typing import Any

from tokenprobe.probe.run.results import Run

from .kit import check, table

WIDTH, N_CLASSES = 16, 4
HEADS = {"ep:queries=1": (1, 1), "ep:queries=8": (8, 1), "ep:queries=8,d_out=2": (8, 2)}


def test_each_head_has_its_figure_and_its_differences(run_script: Callable[..., Any]) -> None:
    study = run_script("queries", ["linear:pool=mean", *HEADS])
    names, *rows = table(study)
    assert names == ["head", "parameters", "MFLOP", "test top-1", "− linear", "− 8 queries"]
    assert [row[0] for row in rows] == ["`linear:pool=mean`", *(f"`{head}`" for head in HEADS)]
    results = Run(study.folder / "runs/queries").results
    chosen = results[results["selected"]]
    tests = chosen.groupby(chosen["head"] + ":" + chosen["head_config"])["test_top1"].agg(["mean", "std"]) * 100
    for head, n_params, _, figure, *less in rows:
        spec = head.strip("`")
        check(figure, tests["mean"][spec], tests["std"][spec])
        for base, shown in zip(("linear:pool=mean", "ep:queries=8"), less, strict=True):
            check(shown, *([] if base == spec else [tests["mean"][spec] - tests["mean"][base]]))
        queries, d_out = HEADS.get(spec, (0, 1))
        out = WIDTH // d_out
        of_pooling = queries * WIDTH + out * WIDTH if queries else 0
        assert n_params == f"{of_pooling + (out + 1) * N_CLASSES:,}"
    assert (study.out / "images/study_queries_tiny-made.png").exists()
