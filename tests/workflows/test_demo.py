"""The demo on its real images and weights, made short."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file
from timm.models import VisionTransformer

from tokenprobe.cli import main
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.probe import FitConfig, fit
from tokenprobe.probe.run.results import Run
from tokenprobe.store import open_store
from tokenprobe.workflows import demo

CHANCE, N_TEST = 0.1, 200


def test_the_bundled_weights_are_those_of_the_demos_architecture() -> None:
    architecture: dict[str, Any] = demo.ARCHITECTURE
    model = VisionTransformer(**architecture, num_classes=0)
    model.load_state_dict(load_file(str(files("tokenprobe") / "assets" / demo.WEIGHTS)), strict=True)


def test_the_demo_extracts_fits_and_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With 200 images per split, ten epochs and one rate; the rest is `probe demo`."""
    extracted: list[ExtractConfig] = []
    fitted: list[FitConfig] = []

    def extract_less(config: ExtractConfig) -> Path:
        extracted.append(config)
        return Path(extract(replace(config, limit=N_TEST, workers=0, device="cpu")))

    def fit_less(store: Path, config: FitConfig) -> Run:
        fitted.append(config)
        return fit(store, replace(config, epochs=10, lr=[30.0], device="cpu"))

    monkeypatch.setattr(demo, "extract", extract_less)
    monkeypatch.setattr(demo, "fit", fit_less)
    assert main(["demo", "-o", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert "1/2 " in shown.err and "2/2 " in shown.err and "done in" in shown.err
    assert "test top-1 in %" in shown.out and "(ep:queries=8): layer " in shown.out

    assert (extracted[0].data, extracted[0].limit, extracted[0].no_pretrained) == ("demo", None, False)
    assert fitted[0].heads == demo.HEADS == ["ep:queries=8", "linear:pool=cls", "linear:pool=mean"]
    store = open_store(tmp_path / "out" / "fashion_mae.zarr")
    assert store.layers == [0, 1, 2, 3, 4, 5] and {name: len(store[name]) for name in store.splits} == {
        "train": 200,
        "test": N_TEST,
    }
    results = pd.read_parquet(tmp_path / "out" / "run" / "results.parquet")
    assert len(results) == 6 * 3 and results["selected"].all()
    five_standard_errors = 5 * (CHANCE * (1 - CHANCE) / N_TEST) ** 0.5
    assert (results["test_top1"] > CHANCE + five_standard_errors).all()


def test_a_second_call_continues_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "HEADS", ["linear:pool=mean"])
    monkeypatch.setattr(demo, "extract", lambda config: extract(replace(config, limit=40, workers=0, layers="5")))
    monkeypatch.setattr(demo, "fit", lambda store, config: fit(store, replace(config, epochs=1, lr=[1.0])))
    seen = []
    for _ in range(2):
        demo.run_demo(tmp_path)
        seen.append({f: (f.read_bytes(), f.stat().st_mtime_ns) for f in tmp_path.rglob("*.safetensors")})
    assert len(seen[0]) == 1 and seen[0] == seen[1]
