"""The example as a researcher runs it, on a store whose second layer alone knows the classes."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tokenprobe.probe.run.results import Run
from tokenprobe.store import Store

SCRIPT = Path(__file__).parents[2] / "examples/layers.py"
LABELS = {"train": np.arange(200) % 4, "test": np.arange(40) % 4}
FORMS = ["EP, best layer", "linear, best layer", "EP, layers joined", "linear, layers joined", "alf"]


def make_tokens(labels: np.ndarray, signal: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(len(labels))
    patch = rng.normal(size=(len(labels), 4, 8)) + signal * np.eye(8)[labels][:, None]
    prefix = rng.normal(size=(len(labels), 1, 8))
    return {"patch": patch.astype(np.float16), "prefix": prefix.astype(np.float16), "mean": patch.mean(1).astype("f4")}


def test_the_table_is_over_the_seeds_of_the_chosen_settings(
    write_store: Callable[..., Store],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process, where a fit draws one figure: the script makes ten fits."""
    tokens = {split: {0: make_tokens(y, 0.0), 1: make_tokens(y, 5.0)} for split, y in LABELS.items()}
    write_store(tmp_path / "made.zarr", tokens, LABELS, grid=(2, 2), block_rows=16)
    asked = ["--seeds", "2", "--epochs", "2", "--batch-size", "16"]
    command = [str(SCRIPT), str(tmp_path / "made.zarr"), "-o", str(tmp_path / "run"), *asked]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(SCRIPT), run_name="__main__")
    shown = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines() if line.startswith("| ")]
    assert rows[0] == ["form", "layers", "rate", "test top-1", "interval", "minus `alf`"]
    assert [row[0] for row in rows[1:]] == FORMS
    assert [row[1] for row in rows[1:]] == ["1", "1", "0+1", "0+1", "stack:0+1"]
    right = {}
    for number, (form, _, rate, figure, interval, less) in enumerate(rows[1:]):
        run = Run(tmp_path / "run" / str(number))
        tests = 100 * run.results["test_top1"]
        assert figure == f"{tests.mean():.1f} ± {tests.std():.1f}"
        assert (run.results["lr"] == float(rate)).all() and sorted(run.results["seed"]) == [0, 1]
        choice = Run(tmp_path / "run" / f"{number}-choice").results
        assert choice.loc[choice["val_top1"].idxmax(), "lr"] == float(rate)
        low, high = map(float, interval.split(" to "))
        assert low <= round(tests.mean(), 1) <= high
        right[form] = tests.mean(), less
    for form in FORMS[:-1]:
        mean, less = right[form]
        assert float(less.split(" ")[0]) == round(mean - right["alf"][0], 1)
    assert right["alf"][1] == ""
