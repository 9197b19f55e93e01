"""Names that people choose for stores: read from the command, kept by the run, changed without training."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tokenprobe.errors import InputError
from tokenprobe.probe import FitConfig, fit
from tokenprobe.probe.run.results import Run
from tokenprobe.probe.run.store_names import split_name
from tokenprobe.store import Store

from ..kit import BLOCK_ROWS, GRID, LABELS, tokens_of, write_made

SETTINGS: dict[str, Any] = {
    "heads": ["linear"],
    "layers": "1",
    "lr": [1.0],
    "epochs": 2,
    "batch_size": 16,
    "device": "cpu",
}


@pytest.mark.parametrize(
    ("given", "name", "path"),
    [
        ("mae=here.zarr", "mae", "here.zarr"),
        ("MAE, large=here.zarr", "MAE, large", "here.zarr"),
        ("a=b.zarr", "", "a=b.zarr"),
        ("x=a=b.zarr", "x", "a=b.zarr"),
        ("here.zarr", "", "here.zarr"),
        ("s3://bucket/a=b.zarr", "", "s3://bucket/a=b.zarr"),
        ("far=s3://bucket/b.zarr", "far", "s3://bucket/b.zarr"),
        ("folder/a=b.zarr", "", "folder/a=b.zarr"),
    ],
)
def test_a_path_that_exists_has_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, name: str, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for existing in ("here.zarr", "a=b.zarr", "folder/a=b.zarr"):
        os.makedirs(existing)
    assert split_name(given) == (name, path)
    assert split_name(Path("mae=here.zarr")) == ("", Path("mae=here.zarr"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a=b.zarr", r"no store at 'b\.zarr', to be named 'a', and none at 'a=b\.zarr'; check the path"),
        (" =here", "'' cannot name a store in tables; give at most 60 characters that can be printed"),
        ("a\x1b=here", r"'a\\x1b' cannot name a store"),
        ("a" * 61 + "=here", "cannot name a store"),
    ],
)
def test_what_cannot_be_a_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.makedirs("here")
    with pytest.raises(InputError, match=said):
        split_name(given)


@pytest.fixture
def stores(write_store: Callable[..., Store], tmp_path: Path) -> list[str]:
    one = write_made(write_store, tmp_path / "one.zarr", model="timm:one")
    tokens = {split: tokens_of(split) for split in LABELS}
    for arrays in tokens["train"].values():
        arrays["mean"] += 1
    other = write_store(tmp_path / "two.zarr", tokens, LABELS, grid=GRID, block_rows=BLOCK_ROWS, model="timm:two")
    return [str(one.path), str(other.path)]


def test_a_name_is_in_the_results_and_the_settings_and_a_new_one_trains_nothing(
    stores: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    run = fit([f"mae={stores[0]}", stores[1]], FitConfig(out=out, **SETTINGS))
    assert dict(zip(run.results["model"], run.results["name"], strict=True)) == {"timm:one": "mae", "timm:two": ""}
    heads = {file: file.stat().st_mtime_ns for file in (out / "heads").iterdir()}
    caplog.set_level("INFO", "tokenprobe")
    again = fit(stores, FitConfig(out=out, **SETTINGS))
    assert caplog.messages == ["nothing to train: every cell of this command is in the run"]
    assert again.results["name"].tolist() == run.results["name"].tolist(), "a command without names keeps them"

    renamed = fit([f"dino={stores[0]}", f"other={stores[1]}"], FitConfig(out=out, **SETTINGS))
    assert sorted(renamed.results["name"]) == ["dino", "other"]
    pd.testing.assert_frame_equal(Run(out).results, renamed.results)
    assert renamed.results.drop(columns="name").equals(run.results.drop(columns="name"))
    assert {file: file.stat().st_mtime_ns for file in (out / "heads").iterdir()} == heads
    known = yaml.safe_load((out / "config.yaml").read_text())["made_from"]["stores"]
    assert sorted(store["name"] for store in known.values()) == ["dino", "other"]
    assert (out / "summary.md").read_text().count("dino") > 1
    assert "mae" not in (out / "summary.md").read_text() + (out / "results.csv").read_text()


def test_one_name_for_two_stores_is_refused(stores: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the name 'a' is given to both '.*one\.zarr' and '.*two\.zarr'; give each"):
        fit([f"a={stores[0]}", f"a={stores[1]}"], FitConfig(out=tmp_path / "run", **SETTINGS))
    fit(f"a={stores[0]}", FitConfig(out=tmp_path / "run", **SETTINGS))
    with pytest.raises(InputError, match="the name 'a' is given to both"):
        fit(f"a={stores[1]}", FitConfig(out=tmp_path / "run", **SETTINGS))
