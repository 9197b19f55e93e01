"""The example as a researcher runs it, on a store whose second layer alone knows the classes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tokenprobe.probe.run.results import Run
from tokenprobe.store import Store

SCRIPT = Path(__file__).parents[2] / "examples/layerwise_sweep.py"
LABELS = {"train": np.arange(64) % 4, "test": np.arange(40) % 4}


def make_tokens(labels: np.ndarray, signal: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(len(labels))
    patch = rng.normal(size=(len(labels), 4, 8)) + signal * np.eye(8)[labels][:, None]
    return {"patch": patch.astype(np.float16), "mean": patch.mean(1).astype(np.float32)}


def test_the_table_and_the_picture_are_of_the_selected_cells(write_store: Callable[..., Store], tmp_path: Path) -> None:
    tokens = {split: {0: make_tokens(y, 0.0), 1: make_tokens(y, 5.0)} for split, y in LABELS.items()}
    write_store(tmp_path / "made.zarr", tokens, LABELS, grid=(2, 2), block_rows=16)
    asked = ["--heads", "ep:queries=2", "linear:pool=mean", "--epochs", "15"]
    command = [sys.executable, str(SCRIPT), str(tmp_path / "made.zarr"), "-o", str(tmp_path / "run"), *asked]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in shown.splitlines()]
    assert rows[0] == ["label", "ep", "queries=2", "linear", "pool=mean"]
    results = Run(tmp_path / "run").results
    for layer, *figures in rows[2:]:
        for head, figure in zip(["ep", "linear"], figures, strict=True):
            cells = results[results["selected"] & (results["head"] == head) & (results["layer"] == layer)]
            assert figure == f"{100 * cells['test_top1'].item():.1f}"
    assert [row[0] for row in rows[2:]] == ["0", "1"]
    assert float(rows[3][1]) > 60 > 40 > float(rows[2][1])
    with Image.open(tmp_path / "run/layers.png") as image:
        assert image.size == (640, 480)
