"""`benchmarks/gpu.py` at tiny sizes on a CPU: a change of the package must not break the measurements of a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
ROWS = ["one_head", "cells_64", "cache_disk", "profile_1", "extract_fast"]


def test_every_kind_of_measurement_runs(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "tokenprobe").symlink_to(ROOT)
    done = subprocess.run(
        [
            sys.executable, ROOT / "benchmarks" / "gpu.py", "--tiny", "--device", "cpu", "--skip-tests",
            "--only", ",".join(ROWS), "--out", tmp_path / "out",
        ],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "code"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    figures = {row: found["rows"][row] for row in ROWS}
    assert all("error" not in each for each in figures.values()), figures
    assert "failed" not in (tmp_path / "out" / "gpu.md").read_text()
    run, *ratios = [json.loads(line) for line in (tmp_path / "out" / "gpu.jsonl").read_text().splitlines()]
    assert run["benchmark"] == "gpu" and len(ratios) == 5
    epochs = figures["one_head"]
    expected = np.divide(epochs["plain_epoch"], epochs["epoch"])
    assert ratios[0]["ratio"]["median"] == pytest.approx(np.median(expected)) and ratios[0]["unit"] == "s"
    assert figures["extract_fast"]["images_per_s"]["loader"] > 0
