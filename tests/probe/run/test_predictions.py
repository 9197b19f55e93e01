"""What cells predict: against the saved heads, kept through kills, and refused once changed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tokenprobe.errors import RunError
from tokenprobe.probe import load_head
from tokenprobe.probe.fitting.checkpoint import Checkpoint
from tokenprobe.probe.fitting.progress import FitProgress
from tokenprobe.probe.report.contents import gather
from tokenprobe.probe.run.predictions import FOLDER, read_images, read_predicted
from tokenprobe.probe.run.results import Run, open_run
from tokenprobe.store import Store

from ..kit import LABELS, fit_made, write_made

SETTINGS: dict[str, Any] = {"heads": ["ep:queries=4", "linear", "knn:k=5", "ridge"], "layers": "1", "seeds": 2}


@pytest.fixture
def store(write_store: Callable[..., Store], tmp_path: Path) -> Store:
    return write_made(write_store, tmp_path / "s.zarr")


def files_of(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (run / FOLDER).iterdir()}


def kept(run: Run) -> dict[str, np.ndarray]:
    """The classes of every cell that has some, by its name."""
    in_run = run.results["cell"].iloc[0].partition("-layer_")[0]
    images = read_images(run.path, in_run)
    assert images is not None
    cells = run.results.set_index("cell")["test_top1"]
    found = {cell: read_predicted(run.path, cell, images, top1) for cell, top1 in cells.items()}
    return {cell: classes for cell, classes in found.items() if classes is not None}


def test_the_classes_are_those_of_the_saved_heads(store: Store, tmp_path: Path) -> None:
    run = fit_made(store, tmp_path / "run", **SETTINGS)
    test = store["test"]
    images = read_images(run.path, run.results["cell"].iloc[0].partition("-layer_")[0])
    assert images is not None
    assert images.ids.tolist() == list(test.ids) and images.classes == list(test.classes)
    assert images.labels.tolist() == test.labels.tolist()
    found = kept(run)
    assert set(found) == set(run.results["cell"])
    arrays = {kind: torch.from_numpy(np.asarray(test.tokens(1, kind=kind), np.float32)) for kind in ("patch", "mean")}
    for row in run.results.itertuples():
        assert np.mean(found[row.cell] == test.labels) == pytest.approx(row.test_top1, abs=1e-12)
        if row.head != "knn":
            head = load_head(run.path, row.cell)
            tokens = arrays[row.tokens] if row.tokens == "patch" else arrays["mean"][:, None]
            with torch.inference_mode():
                assert head(tokens).argmax(1).tolist() == found[row.cell].tolist()


@pytest.mark.parametrize("stop", [2, 9, 30])
def test_a_run_that_was_killed_keeps_the_same_classes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    whole = fit_made(store, tmp_path / "whole", **SETTINGS)
    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    advance, seen = FitProgress.advance, 0

    def stop_here(*arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == stop:
            raise KeyboardInterrupt
        return advance(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(FitProgress, "advance", stop_here)
        with pytest.raises(KeyboardInterrupt):
            fit_made(store, tmp_path / "run", **SETTINGS)
    run = fit_made(store, tmp_path / "run", **SETTINGS)
    assert files_of(run.path) == files_of(whole.path)


def test_a_later_fit_that_selects_another_rate_finds_its_classes(store: Store, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"heads": ["linear"], "layers": "1", "lr": [0.001, 1.0]}
    first = fit_made(store, tmp_path / "run", **settings)
    results = first.results
    (loser,) = results["lr"][~results["selected"]]
    other = results.assign(val_top1=results["val_top1"].where(results["lr"] == loser, 0.0))
    files = files_of(first.path)
    with open_run(first.path) as run:
        run.results = other  # as if more seeds had moved the mean
        added = run.rows()[0] | {"cell": results["cell"].iloc[0].replace("layer_01", "layer_00"), "layer": "0"}
        run.add([added], [])
    of_layer = run.results[run.results["layer"] == "1"]
    assert of_layer["lr"][of_layer["selected"]].tolist() == [loser]
    assert files_of(first.path) == files and set(kept(run)) == set(results["cell"])
    (key,) = gather([run]).judged
    assert key[-1] == "1"


def test_images_with_several_labels_have_no_classes(write_store: Callable[..., Store], tmp_path: Path) -> None:
    labels = {split: np.eye(4, dtype=np.int64)[of_split] for split, of_split in LABELS.items()}
    run = fit_made(write_made(write_store, tmp_path / "m.zarr", labels), tmp_path / "run", heads=["linear"], layers="1")
    assert not (run.path / FOLDER).exists()
    assert run.results["n_test"].tolist() == [len(LABELS["test"])] * len(run.results)


def test_classes_that_were_changed_or_are_another_cells_are_refused(store: Store, tmp_path: Path) -> None:
    run = fit_made(store, tmp_path / "run", heads=["linear:pool=mean|cls"], layers="0", lr=[0.01])
    one, other = sorted(kept(run))
    folder = run.path / FOLDER
    content = bytearray((folder / f"{one}.parquet").read_bytes())
    shutil.copy(folder / f"{other}.parquet", folder / f"{one}.parquet")
    figures = run.results.set_index("cell")["test_top1"]
    assert figures[one] != figures[other]
    with pytest.raises(RunError, match="its classes do not give the accuracy in the results"):
        kept(run)
    table = pd.read_parquet(folder / f"{other}.parquet")
    table.to_parquet(folder / f"{one}.parquet")
    with pytest.raises(RunError, match="damaged"):
        kept(run)
    content[len(content) // 2] ^= 1
    (folder / f"{one}.parquet").write_bytes(bytes(content))
    with pytest.raises(RunError, match="damaged"):
        kept(run)
