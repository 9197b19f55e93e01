"""The control of random weights at a tiny setting."""

from collections.abc import Callable
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tokenprobe.probe.run.results import Run
from tokenprobe.store import open_store

from .kit import check, table


def test_random_weights_see_the_pixels_of_the_others(run_script: Callable[..., Any]) -> None:
    study = run_script("poolings", ["linear:pool=mean", "ep:queries=2"])
    rows = table(study)[1:]
    results = Run(study.folder / "runs/poolings").results
    chosen = results[results["selected"] & (results["head"] == "ep")].groupby("name")["test_top1"]
    for column, name in ((3, "mae"), (5, "random")):
        tests = 100 * chosen.get_group(name)
        check(rows[1][column], tests.mean(), tests.std())
    mae, random = (open_store(study.folder / f"{name}.zarr").manifest.recipe for name in ("mae", "random"))
    assert mae.transform == random.transform
    ours, theirs = load_file(study.weights), load_file(study.folder / "random.safetensors")
    assert ours.keys() == theirs.keys()
    assert not torch.equal(ours["blocks.1.mlp.fc1.weight"], theirs["blocks.1.mlp.fc1.weight"])
    with safe_open(study.folder / "random.safetensors", "pt") as file:
        assert "arch" in file.metadata()
