"""The example as a researcher runs it: means and deviations over the seeds of the selected cells."""

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tokenprobe.probe.run.results import Run
from tokenprobe.store import Store

SCRIPT = Path(__file__).parents[2] / "examples/lowshot_sweep.py"
LABELS = {"train": np.arange(64) % 4, "test": np.arange(40) % 4}


def make_tokens(labels: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(len(labels))
    patch = rng.normal(size=(len(labels), 4, 8)) + np.eye(8)[labels][:, None]
    return {"patch": patch.astype(np.float16), "mean": patch.mean(1).astype(np.float32)}


def test_the_table_is_over_the_seeds_of_the_selected_cells(write_store: Callable[..., Store], tmp_path: Path) -> None:
    tokens = {split: {0: make_tokens(labels)} for split, labels in LABELS.items()}
    write_store(tmp_path / "made.zarr", tokens, LABELS, grid=(2, 2), block_rows=16)
    asked = ["--heads", "linear:pool=mean", "ridge", "--shots", "1", "4", "full", "--seeds", "2", "--epochs", "3"]
    command = [sys.executable, str(SCRIPT), str(tmp_path / "made.zarr"), "-o", str(tmp_path / "run"), *asked]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    table = pd.read_csv(tmp_path / "run/lowshot.csv", header=[0, 1], index_col=[0, 1])
    assert list(dict.fromkeys(table.columns.get_level_values(0))) == ["1", "4", "full"]
    results = Run(tmp_path / "run").results
    for (head, _), row in table.iterrows():
        assert head in shown
        for shots in ("1", "4", "full"):
            cells = results[results["selected"] & (results["head"] == head) & (results["shots"] == shots)]
            tests = [100 * value for value in cells["test_top1"]]
            assert row[shots, "mean"] == pytest.approx(statistics.mean(tests))
            if len(tests) > 1:
                assert row[shots, "std"] == pytest.approx(statistics.stdev(tests))
    assert set(table.index.get_level_values(0)) == {"linear", "ridge"}


def test_the_defaults_suit_ten_classes(write_store: Callable[..., Store], tmp_path: Path) -> None:
    """As the demo's store has, the first that anybody has."""
    labels = {"train": np.arange(200) % 10, "test": np.arange(40) % 10}
    rng = np.random.default_rng(0)
    tokens = {}
    for split, of_split in labels.items():
        patch = rng.normal(size=(len(of_split), 4, 32))
        tokens[split] = {0: {"patch": patch.astype(np.float16), "mean": patch.mean(1).astype(np.float32)}}
    write_store(tmp_path / "made.zarr", tokens, labels, grid=(2, 2), block_rows=40)
    asked = ["-o", str(tmp_path / "run"), "--seeds", "1", "--epochs", "1"]
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path / "made.zarr"), *asked], check=True, capture_output=True)
    assert set(Run(tmp_path / "run").results["head"]) == {"ep", "linear", "knn", "ridge"}
