"""Attention over layers: per class against the weights that `forward` uses, from the store and from image files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tokenprobe.cli import main
from tokenprobe.probe.run.results import Run
from tokenprobe.probe.run.saved import load_saved
from tokenprobe.store import Store
from tokenprobe.workflows import attend_layers
from tokenprobe.workflows.attend import attend, attentive_cell
from tokenprobe.workflows.attend_layers import layer_weights
from tokenprobe.workflows.config import AttendConfig

from ..probe.kit import LABELS, fit_made, write_made

MakeRun = Callable[..., Run]


def test_attention_over_stacked_layers_is_summed_over_their_tokens(
    write_store: Callable[..., Store], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(attend_layers, "CHUNK_BYTES", 7 * 4 * 2 * 6 * 8)
    store = write_made(write_store, tmp_path / "s.zarr")
    config: dict[str, Any] = {"lr": [1.0], "epochs": 1}
    fit_made(store, tmp_path / "run", heads=["linear"], layers="all", **config)
    run = fit_made(store, tmp_path / "run", heads=["ep:queries=4,tokens=patch+prefix"], layers="stack:all", **config)
    assert main(["attend", str(run.path), "--n", "2", "-o", str(tmp_path / "out"), "--style", "slides"]) == 0
    assert "most attention: 0." in capsys.readouterr().out
    assert {"maps.csv", "layers.csv", "layers.svg", "layers.pdf"} <= {
        file.name for file in (tmp_path / "out").iterdir()
    }
    found = pd.read_csv(tmp_path / "out" / "layers.csv", keep_default_na=False)
    saved, _ = load_saved(run.path, attentive_cell(run.path))
    split = store["test"]
    arrays = [torch.from_numpy(split.tokens(layer, kind=kind)) for kind in ("prefix", "patch") for layer in (0, 1)]
    with torch.no_grad():
        weights = saved.pooling.attention(torch.cat(arrays, dim=1).float()).mean(1).numpy()  # type: ignore[operator]
    places = {("prefix", 0): [0, 1], ("prefix", 1): [2, 3], ("patch", 0): range(4, 10), ("patch", 1): range(10, 16)}
    for name in ["", *split.classes]:
        rows = [row for row in range(60) if name == "" or LABELS["test"][row] == split.classes.index(name)]
        for (token, layer), of_token in places.items():
            row = found[(found["class"] == name) & (found["layer"] == layer) & (found["token"] == token)]
            expected = sum(weights[i, n] for i in rows for n in of_token) / len(rows)
            assert row["weight"].item() == pytest.approx(expected, abs=2e-6)


def test_a_head_on_vectors_shows_its_attention_over_layers_per_class(
    write_store: Callable[..., Store], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    run = fit_made(store, tmp_path / "run", heads=["alf"], layers="stack:all", lr=[1.0], epochs=2)
    assert main(["attend", str(run.path), "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("most attention: 0.")
    found = pd.read_csv(tmp_path / "out" / "layers.csv", keep_default_na=False)
    assert (tmp_path / "out" / "layers.png").is_file()
    saved, about = load_saved(run.path, attentive_cell(run.path))
    split = store["test"]
    arrays = [torch.from_numpy(split.tokens(layer, kind="prefix"))[:, :1].float() for layer in (0, 1)]
    arrays += [torch.from_numpy(split.tokens(layer, kind="mean"))[:, None] for layer in (0, 1)]
    with torch.no_grad():
        weights = saved.pooling.attention(torch.cat(arrays, dim=1)).mean(1).numpy()  # type: ignore[operator]
    tokens = [("cls", 0), ("cls", 1), ("mean", 0), ("mean", 1)]
    for name in ["", *split.classes]:
        rows = [True] * 60 if name == "" else LABELS["test"] == split.classes.index(name)
        for place, (token, layer) in enumerate(tokens):
            row = found[(found["class"] == name) & (found["layer"] == layer) & (found["token"] == token)]
            assert row["weight"].item() == pytest.approx(weights[rows, place].mean(), abs=1e-5)
    sums = layer_weights(weights[:, None].astype(float), about).sum((1, 2))
    assert sums == pytest.approx(np.ones(60), abs=1e-5)


def test_heads_on_vectors_take_image_files_too(make_run: MakeRun, image_folder: Path, tmp_path: Path) -> None:
    run = make_run(["alf"], layers="stack:all")
    found = attend(run.path, AttendConfig(images=str(image_folder / "test"), n=24, out=tmp_path / "out", device="cpu"))
    whole = attend(run.path, AttendConfig(out=tmp_path / "whole")).table
    expected = whole[whole["class"] == ""]["weight"].to_numpy()
    assert found.table["weight"].to_numpy() == pytest.approx(expected, abs=1e-5)
