"""The leaderboard as a researcher runs it, on two tiny models."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models import VisionTransformer

from tokenprobe.extract import ExtractConfig
from tokenprobe.probe import FitConfig

from .kit import TINY, Script, read_lines

Command = Callable[..., int]
Make = Callable[..., Path]


def best_of(run: Path, head: str) -> list[float]:
    """Return the figures of a head from the CSV file of a run, in percent."""
    with (run / "results.csv").open() as file:
        return [100 * float(line["test_top1"]) for line in csv.DictReader(file) if line["head"] == head]


def test_a_list_runs_stops_and_continues(
    script: Script, run: Command, made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within the second row. The second command does nothing of the first row, and no stage twice."""
    out, ran = tmp_path / "out", []
    real = {"extract": script.main.extract, "fit": script.main.fit}

    def extract(config: ExtractConfig) -> Any:
        ran.append(("extract", Path(config.out).name))
        return real["extract"](config)

    def stopped(store: str, config: FitConfig) -> Any:
        ran.append(("fit", Path(config.out).name))
        if Path(config.out).name == "second":
            raise KeyboardInterrupt
        return real["fit"](store, config)

    monkeypatch.setattr(script.main, "extract", extract)
    monkeypatch.setattr(script.main, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(made(), "-o", out)
    assert ran == [("extract", "first.zarr"), ("fit", "first"), ("extract", "second.zarr"), ("fit", "second")]
    lines = read_lines(out)
    assert [line["note"] for line in lines.values()] == [
        "", "", "", "not run yet", "it has no head.", "it has no weights."
    ]  # fmt: skip
    ran.clear()
    monkeypatch.setattr(script.main, "fit", real["fit"])
    shutil.rmtree(out / "first.zarr")
    before = times_of(out / "runs/first"), times_of(out / "second.zarr/train/layer_01")
    assert len(before[0]) > 5 and len(before[1]) > 1
    assert run(made(), "-o", out) == 0
    assert ran == [("extract", "second.zarr")]
    assert before == (times_of(out / "runs/first"), times_of(out / "second.zarr/train/layer_01"))
    check_table(out)
    ran.clear()
    monkeypatch.setattr(script.main, "fit", stopped)
    assert run(made(), "-o", out) == 0 and ran == []


def times_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def check_table(out: Path) -> None:
    """Compare the table with the runs' own files."""
    lines = read_lines(out)
    ours = {
        ("first", "LP"): best_of(out / "runs/first", "linear"),
        ("first", "EP"): best_of(out / "runs/first", "ep"),
        ("second", "EP"): best_of(out / "runs/second", "ep"),
    }
    assert [len(values) for values in ours.values()] == [1, 1, 2]
    shown = (out / "leaderboard.md").read_text()
    for (name, probe), values in ours.items():
        line = lines[name, probe, "paper"]
        assert float(line["ours"]) == pytest.approx(np.mean(values))
        assert float(line["difference"]) == pytest.approx(np.mean(values) - float(line["published"]))
        assert int(line["n_seeds"]) == len(values) and line["note"] == ""
        assert f"{np.mean(values) - float(line['published']):+.2f} |  |".replace("-", "−") in shown
    assert float(lines["first", "LP", "report"]["difference"]) == pytest.approx(ours["first", "LP"][0] - 20.5)
    assert float(lines["second", "EP", "paper"]["std"]) == pytest.approx(np.std(ours["second", "EP"], ddof=1))
    assert "| Second | kNN | – | paper | 10 | – | – | it has no head. |" in shown
    assert "| Third | LP | `linear:pool=mean` | paper | 50 | – | – | it has no weights. |" in shown


def test_a_row_that_fails_is_noted_and_the_others_run(
    run: Command, made: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its weights are missing at first. Then its rate is far too high, and then it has two layers."""
    asked = ["-o", tmp_path, "--rows", "first"]
    missing = {"model": "timm:VisionTransformer", "model_arg": TINY, "checkpoint": str(tmp_path / "own.safetensors")}
    figures = [{"probe": "LP", "head": "linear:pool=cls", "paper": 20}]
    assert run(made(extract=missing, figures=figures), *asked) == 1
    note = read_lines(tmp_path)["first", "LP", "paper"]["note"]
    assert note.startswith("no checkpoint") and "own.safetensors" in note
    assert f"first: {note}" in capsys.readouterr().err
    torch.manual_seed(0)
    save_file(VisionTransformer(**TINY).state_dict(), tmp_path / "own.safetensors")
    wild = {"lr": 1e30}
    assert run(made(extract=missing, figures=figures, fit=wild), *asked) == 0
    line = read_lines(tmp_path)["first", "LP", "paper"]
    assert (line["note"], line["ours"], line["difference"]) == ("every cell diverged", "", "")
    several = made(extract=missing | {"layers": "all"}, figures=figures, fit={"layers": "all"})
    assert run(several, *asked) == 1
    note = read_lines(tmp_path)["first", "LP", "paper"]["note"]
    made_before = [tmp_path / "first.zarr", tmp_path / "runs" / "first"]
    assert note == (
        f"row 'first' was begun with other settings; delete {made_before[0]} and {made_before[1]}, "
        "or give the row another name"
    )
    for path in made_before:
        shutil.rmtree(path)
    assert run(several, *asked) == 1
    note = read_lines(tmp_path)["first", "LP", "paper"]["note"]
    assert note == "row 'first' has several layers or shots; give each a row, because a figure has one"


def test_a_wrong_command_is_refused(
    run: Command, made: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        ([made(), "-o", tmp_path, "--rows", "frist"], "unknown row 'frist'; known: first, "),
        ([tmp_path / "none.yaml", "-o", tmp_path], "no config file at "),
        ([made()], "give --out a folder, or --page a page"),
        ([made(), "--page", tmp_path / "page.md"], "has no n_images; the page needs them for the sizes of stores"),
    ):
        with pytest.raises(SystemExit):
            run(*arguments)
        assert message in capsys.readouterr().err
