"""`probe report`: the answer first, and its JSON."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenprobe.cli import main
from tokenprobe.probe import FitConfig, fit
from tokenprobe.store import Store


@pytest.fixture(scope="module")
def run(write_store: Callable[..., Store], tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np

    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    labels = {"train": np.arange(60) % 3, "test": np.arange(30) % 3}
    named = []
    for name, strength in (("weak", 0.0), ("strong", 3.0)):
        centres = strength * np.eye(3, 8)
        means = {split: centres[y] + rng.normal(size=(len(y), 8)) for split, y in labels.items()}
        tokens = {split: {0: {"mean": mean.astype(np.float32)}} for split, mean in means.items()}
        store = write_store(folder / f"{name}.zarr", tokens, labels, grid=(1, 1), block_rows=16, model=f"timm:{name}")
        named.append(f"{name}={store.path}")
    fit(named, FitConfig(out=folder / "run", heads="ridge", device="cpu"))
    return folder / "run"


def test_the_answer_is_the_first_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "-o", str(tmp_path / "report")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Best backbone: strong, test top-1 ")
    assert said[1].startswith("  weak, ridge regression, mean token on layer 0: ")
    assert said[-5:] == [
        f"{tmp_path / 'report'}/",
        "  summary.md               the answer and all tables",
        "  report.html              all cells and figures, for a browser",
        "  tables/                  the tables as .csv and .tex",
        "  figures/                 pictures as .png, .svg and .pdf",
    ]


def test_json_holds_what_the_screen_shows(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "-o", str(tmp_path / "report"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["runs"], found["out"]) == ([str(run)], str(tmp_path / "report"))
    assert found["answers"][0].startswith("Best backbone: strong, ")
    assert [(row["backbone"], row["head"], row["leads"]) for row in found["leaders"]] == [
        ("weak", "ridge:pool=mean", False),
        ("strong", "ridge:pool=mean", True),
    ]
    assert {"warnings", "summary", "remarks", "cells"} <= found.keys()


def test_a_place_that_is_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"probe report: no run at {str(tmp_path)!r}; give a folder that probe fit has made\n"
    )
