"""The table of stores at a tiny setting: differences against the float32 store, and sizes on the disk."""

from collections.abc import Callable
from typing import Any

from tokenprobe.probe.run.results import Run
from tokenprobe.store import open_store

from .kit import check, table


def test_each_store_is_compared_with_float32(script: Callable[[str], Any], run_script: Callable[..., Any]) -> None:
    study = run_script("stores", ["linear:pool=cls"])
    names, *rows = table(study)
    assert names == ["store", "MiB", "`linear:pool=cls`", "− float32"]
    kinds = script("stores").KINDS
    assert [row[0] for row in rows] == list(kinds)
    results = Run(study.folder / "runs/stores").results
    tests = 100 * results[results["selected"]].groupby("name")["test_top1"].mean()
    for number, (row, kind) in enumerate(zip(rows, kinds.values(), strict=True)):
        path = study.folder / f"s{number}.zarr"
        assert open_store(path).manifest.recipe.dtype == kind["dtype"]
        assert row[1] == f"{sum(file.stat().st_size for file in path.rglob('*') if file.is_file()) / 2**20:.1f}"
        check(row[2], tests[f"s{number}"])
        check(row[3], *([tests[f"s{number}"] - tests["s0"]] if number else []))
