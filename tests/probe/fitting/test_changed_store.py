"""A store that is made anew while a fit reads it: the fit ends, and nothing of the new store is in the run."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenprobe.errors import StoreError
from tokenprobe.probe.fitting import checkpoint, layer_fit, solve, train
from tokenprobe.probe.fitting.streams import LayerStreams
from tokenprobe.probe.planning.layer_plan import LayerPlan
from tokenprobe.probe.run.results import Run
from tokenprobe.store import Store

from ..kit import BLOCK_ROWS, GRID, LABELS, UNSTABLE, fit_made, tokens_of, write_made

MESSAGE = r"the store '.*s.zarr' was made anew, grown, moved or removed after it was opened"
MOMENTS = {
    "a layer is finished": (Run, "add", ["linear"], "0"),
    "a layer is scored": (train, "_score", ["linear"], None),
    "a solver is scored": (solve, "_count", ["ridge"], None),
    "a checkpoint is due": (checkpoint.Checkpoint, "due", ["linear"], None),
}
"""Where the store is made anew: after the first call of a function, the heads, and the layer that the run then has."""


def make_anew(write_store: Callable[..., Store], path: Path) -> None:
    shutil.rmtree(path)
    write_made(write_store, path, blank=range(40))


@pytest.mark.parametrize("cache", ["ram", "disk"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_nothing_of_the_new_store_gets_into_the_run(
    write_store: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, cache: str
) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    place, name, heads, layer = MOMENTS[moment]
    settings: dict[str, Any] = {"heads": heads, "lr": [1.0], "cache": cache}
    quiet = fit_made(store, tmp_path / "quiet", **settings).results.drop(columns=UNSTABLE)
    if name == "due":
        monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    really = getattr(place, name)

    def once(*args: Any, **kwargs: Any) -> Any:
        found = really(*args, **kwargs)
        monkeypatch.setattr(place, name, really)
        make_anew(write_store, tmp_path / "s.zarr")
        return found

    monkeypatch.setattr(place, name, once)
    with pytest.raises(StoreError, match=MESSAGE):
        fit_made(store, tmp_path / "run", **settings)
    run = Run(tmp_path / "run")
    if layer is None:
        assert run.results.empty and not list(run.path.glob("heads/*"))
    else:
        expected = quiet[quiet["layer"] == layer].reset_index(drop=True)
        assert run.results.drop(columns=UNSTABLE).equals(expected)
        assert {f.stem for f in run.path.glob("heads/*")} == set(expected["cell"])
    assert not (run.path / "checkpoint.pt").exists()


def test_the_store_of_the_test_split_is_asked_too(
    write_store: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_made(write_store, tmp_path / "s.zarr")
    tokens, labels = {"train": tokens_of("train")}, {"train": LABELS["train"]}
    other = write_store(tmp_path / "train.zarr", tokens, labels, grid=GRID, block_rows=BLOCK_ROWS)
    really, read = Run.add, LayerStreams
    opened: list[str] = []

    def once(*args: Any) -> None:
        really(*args)
        make_anew(write_store, tmp_path / "s.zarr")

    def watched(layer: LayerPlan, device: Any, tell: Any) -> LayerStreams:
        opened.append(layer.label)
        return read(layer, device, tell)

    monkeypatch.setattr(Run, "add", once)
    monkeypatch.setattr(layer_fit, "LayerStreams", watched)
    with pytest.raises(StoreError, match=MESSAGE):
        fit_made(other, tmp_path / "run", heads=["linear"], test_store=whole.path)
    assert set(Run(tmp_path / "run").results["layer"]) == {"0"}
    assert opened == ["0"]  # layer 1 is not even read
