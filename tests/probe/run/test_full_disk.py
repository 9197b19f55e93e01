"""A disk that is full while a run is written: the file is named, and the same command goes on from there."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenprobe.errors import NoSpaceError
from tokenprobe.store import Store, durable
from tokenprobe.store.temporaries import file_of

from ..kit import assert_same, fit_made, write_made

SETTINGS = {"heads": ["linear", "ridge"], "layers": "1", "lr": [1.0]}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a disk without space")
@pytest.mark.parametrize(
    "name",
    ["config.yaml", "-linear-", "-ridge-", "history.parquet", "results.csv", "results.parquet", "layer_curve.png",
     "summary.md", "report.html"],
)  # fmt: skip
def test_a_full_disk_is_explained_and_loses_nothing(
    write_store: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    whole = fit_made(store, tmp_path / "whole", **SETTINGS)
    open_new = durable.open_new
    found: list[Path] = []

    def open_full(path: Path) -> int:
        if name not in path.name:
            return open_new(path)
        found.append(path)
        return os.open("/dev/full", os.O_WRONLY)

    monkeypatch.setattr(durable, "open_new", open_full)
    with pytest.raises(NoSpaceError) as raised:
        fit_made(store, tmp_path / "run", **SETTINGS)
    monkeypatch.setattr(durable, "open_new", open_new)
    written = file_of(str(found[0]))
    assert str(raised.value) == (
        f"the disk of '{tmp_path}/run' is full (writing '{written}'); finished cells are safe: free some space, then "
        "run the same command again"
    )
    again = fit_made(store, tmp_path / "run", **SETTINGS)
    assert_same(again, whole)
    assert {f.name for f in again.path.rglob("*")} == {f.name for f in whole.path.rglob("*")}
