"""What commands show, and where: results on stdout, messages on stderr, JSON for scripts, nothing from a library."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tokenprobe.cli import main
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.datasets import DATASETS
from tokenprobe.probe import FitConfig, fit
from tokenprobe.store import open_store
from tokenprobe.store.facts import facts
from tokenprobe.workflows.config import ExportConfig, PredictConfig
from tokenprobe.workflows.export import export
from tokenprobe.workflows.predict import predict
from tokenprobe.workflows.repair import repair

MakeConfig = Callable[..., ExtractConfig]
FIT: dict[str, Any] = {"heads": ["linear:pool=cls", "knn:k=3"], "lr": [1.0, 3.0], "epochs": 2, "layers": "0,2"}
FIT_FLAGS = ["--head", "linear:pool=cls,knn:k=3", "--lr", "1,3", "--epochs", "2", "--layers", "0,2"]


@pytest.fixture
def store(tiny_config: MakeConfig) -> Path:
    return Path(extract(tiny_config()))


def json_of(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("on_a_terminal", [False, True])
def test_the_library_says_nothing_unless_asked(
    tiny_config: MakeConfig, image_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, on_a_terminal: bool,
) -> None:  # fmt: skip
    if on_a_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
    out = Path(extract(tiny_config(dtype="int8", skip_bad_images=True)))
    extract(tiny_config(dtype="int8", skip_bad_images=True))
    extract(tiny_config(dry_run=True))
    run = fit(out, FitConfig(out=tmp_path / "run", **FIT))
    fit(out, FitConfig(out=tmp_path / "run", **FIT))
    fit(out, FitConfig(out=tmp_path / "other", dry_run=True, **FIT))
    cell = next(name for name in run.results["cell"] if "linear" in name)
    predict(run.path, PredictConfig(images=str(image_folder / "test"), cell=cell, workers=0))
    export(out, ExportConfig(out=tmp_path / "npy", to="npy", layers="0"))
    next(file for file in out.rglob("c.0.0.0")).unlink()
    assert repair(out) == []
    assert capfd.readouterr() == ("", "")


def test_a_program_that_sets_up_logging_has_the_messages(
    tiny_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tokenprobe"):
        out = Path(extract(tiny_config()))
    assert any(record.getMessage().startswith(f"{out}: 84 images in ") for record in caplog.records)
    assert {record.name.partition(".")[0] for record in caplog.records} == {"tokenprobe"}


def test_extract_and_info_print_the_facts_of_a_store(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "-m",
        "timm:VisionTransformer",
        "--no-pretrained",
        "--workers",
        "0",
        "-d",
        str(image_folder),
        "--layers",
        "0",
    ]
    flags += ["--model-arg", "img_size=16,patch_size=4,embed_dim=12,depth=3,num_heads=2"]
    out = tmp_path / "a.zarr"
    assert main(["extract", *flags, "-o", str(out), "--json"]) == 0
    found = json_of(capsys)
    assert found["splits"]["train"]["images"] == 60 and found["last_extraction"]["n_images"] == 84
    assert main(["info", str(out), "--json"]) == 0
    assert json_of(capsys) == found == json.loads(json.dumps(facts(open_store(out))))
    assert main(["info", str(out), "--json", "--audit"]) == 0
    costs = json_of(capsys)["audit"]["costs"]
    assert [(cost["layer"], cost["dtype"]) for cost in costs] == [(0, "bfloat16"), (0, "int8")]


def test_fit_prints_its_summary(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(store), "-o", str(tmp_path / "run"), *FIT_FLAGS, "--json"]) == 0
    found = json_of(capsys)
    results = pd.read_parquet(tmp_path / "run" / "results.parquet")
    assert (found["run"], found["cells"], found["remarks"]) == (str(tmp_path / "run"), len(results), [])
    rows = sorted((row["head"], row["layer"]) for row in found["summary"])
    assert rows == [("knn:k=3", "0"), ("knn:k=3", "2"), ("linear:pool=cls", "0"), ("linear:pool=cls", "2")]
    for row in found["summary"]:
        of_row = results[(results["layer"] == row["layer"]) & (results["head"] == row["head"].partition(":")[0])]
        (selected,) = of_row[of_row["selected"]].itertuples()
        assert (row["test"], row["val"], row["n_seeds"]) == (selected.test_top1, selected.val_top1, 1)
        assert row["lr"] == (None if row["head"].startswith("knn") else selected.lr)
        assert row["test_std"] is None, "one seed"
    assert sorted(row["head"] for row in found["summary"] if row["best"]) == ["knn:k=3", "linear:pool=cls"]


def test_verify_prints_its_problems(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(store), "--json"]) == 0
    assert json_of(capsys) == {"store": str(store), "problems": []}
    (store / "train/layer_01/mean/c.0.3.0").unlink()
    assert main(["verify", str(store), "--json"]) == 2
    problem = {"file": "train/layer_01/mean/c.0.3.0", "kind": "missing", "what": "missing"}
    assert json_of(capsys)["problems"] == [problem]


def test_predict_prints_a_dict_per_image(
    store: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(store, FitConfig(out=tmp_path / "run", heads=["linear"], lr=[1.0], epochs=1, layers="0"))
    flags = ["predict", str(run.path), "--images", str(image_folder / "test"), "--workers", "0"]
    assert main([*flags, "--json"]) == 0
    rows = json_of(capsys)
    assert len(rows) == 24 and set(rows[0]) == {"image", "predicted", "score"}
    assert all(row["predicted"] in ("ant", "bee", "cat") and 1 / 3 <= row["score"] <= 1 for row in rows)


def test_models_and_datasets_print_dicts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "convnext_atto.d2_in1k", "--json"]) == 0
    page = json_of(capsys)
    assert (page["page"], page["pages"], page["n_models"]) == (1, 1, 1)
    (model,) = page["models"]
    assert model["model"] == "timm:convnext_atto.d2_in1k"
    assert (
        model["layers"][0] == {"grid": [56, 56], "dim": 40, "prefix": 0, "embedding": 0} and len(model["layers"]) == 4
    )
    assert main(["datasets", "--json"]) == 0
    assert [source["source"] for source in json_of(capsys)] == list(DATASETS)


def test_quiet_leaves_the_result_and_verbose_adds_names(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["fit", str(store), *FIT_FLAGS, "-o"]
    assert main([*flags, str(tmp_path / "quiet"), "-q"]) == 0
    said = capsys.readouterr()
    assert said.err == "" and "test top-1 in %" in said.out
    assert main([*flags, str(tmp_path / "usual")]) == 0
    usual = capsys.readouterr()
    assert usual.out.replace("usual", "quiet") == said.out and "6 cells to train on 2 layers\n" in usual.err
    assert main([*flags, str(tmp_path / "verbose"), "-v"]) == 0
    assert "tokenprobe.probe.pipeline: 6 cells to train on 2 layers\n" in capsys.readouterr().err


def test_a_dry_run_is_a_result(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(store), "-o", str(tmp_path / "run"), *FIT_FLAGS, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "in all 6 cells: " in said.out and said.err == ""


def test_a_dry_run_has_no_json(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(store), "-o", str(tmp_path / "run"), *FIT_FLAGS, "--dry-run", "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err == (
        "probe fit: a dry run is text for people, and --json was given too; leave one of them out\n"
    )


def test_in_a_pipe_there_are_no_escape_codes_and_no_wrapped_lines(store: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tokenprobe", "fit", str(store), "-o", str(tmp_path / "run"), *FIT_FLAGS]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "\x1b" not in ended.stdout + ended.stderr and "\r" not in ended.stdout + ended.stderr
    assert len(ended.stderr.splitlines()) < 10
    assert re.search(r"^k-NN, k = 3 \(knn:k=3\): layer \d, test top-1 [\d.]+ %", ended.stdout, re.MULTILINE)
