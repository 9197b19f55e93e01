"""Stores of a run are found from any folder, and refused if they hold other data than the run was made from."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from tokenprobe.errors import InputError, MissingError
from tokenprobe.probe.run.results import Run
from tokenprobe.probe.run.saved import load_saved
from tokenprobe.store import Store
from tokenprobe.store.reader import Split
from tokenprobe.workflows.run_stores import open_split

from ..probe.kit import BLOCK_ROWS, GRID, LABELS, fit_made, tokens_of, write_made


def write_shorter(
    write_store: Callable[..., Store],
    path: Path,
    n_less: int = 1,
    train: str = "train",
    test: str = "test",
    whole: str | None = None,
) -> Store:
    """Write a store like `write_made`, without the last images but of one split, under other names of splits."""
    names = {"train": train, "test": test}
    kept = {split: len(labels) - n_less * (split != whole) for split, labels in LABELS.items()}
    tokens = {
        name: {
            layer: {kind: values[: kept[split]] for kind, values in arrays.items()}
            for layer, arrays in tokens_of(split).items()
        }
        for split, name in names.items()
    }
    labels = {name: LABELS[split][: kept[split]] for split, name in names.items()}
    return write_store(path, tokens, labels, grid=GRID, block_rows=BLOCK_ROWS)


@pytest.fixture
def run(write_store: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run in a folder `here`, on a store that is given by a relative path."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    store = write_made(write_store, Path("s.zarr"))
    return Run(fit_made(store, Path("run"), heads=["linear"], layers="1", lr=[1.0], epochs=1).path.absolute())


def opened(run: Run, split: str | None = None) -> Split:
    cell = run.results["cell"].iloc[0]
    return open_split(run.path, cell, load_saved(run.path, cell)[1], split)


def test_the_store_is_found_from_another_folder(
    run: Run, write_store: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(there)
    assert opened(run).store.path == tmp_path / "here" / "s.zarr"
    other = write_shorter(write_store, Path("s.zarr"))
    assert opened(run).store.path != other.path and np.array_equal(opened(run).labels, LABELS["test"])
    shutil.rmtree(tmp_path / "here" / "s.zarr")
    with pytest.raises(InputError, match=r"'s.zarr' holds other data than .*linear.* was made from \(splits test\)"):
        opened(run)
    shutil.rmtree("s.zarr")
    with pytest.raises(MissingError, match=r"put the store back, or give --images to compute the tokens"):
        opened(run)


def test_a_store_that_was_made_again_from_other_data_is_refused(run: Run, write_store: Callable[..., Store]) -> None:
    shutil.rmtree("s.zarr")
    write_shorter(write_store, Path("s.zarr"))
    with pytest.raises(InputError, match="holds other data than"):
        opened(run)


def test_only_the_split_that_is_read_must_be_as_it_was(run: Run, write_store: Callable[..., Store]) -> None:
    """The training split may have grown since."""
    shutil.rmtree("s.zarr")
    write_shorter(write_store, Path("s.zarr"), whole="test")
    assert opened(run).name == "test"
    with pytest.raises(InputError, match=r"holds other data than .* \(splits train\)"):
        opened(run, "train")


def test_a_run_of_an_earlier_version_has_its_paths_as_they_were_given(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run.path / "config.yaml"
    content = yaml.safe_load(config.read_text())
    del content["made_from"]["places"]
    config.write_text(yaml.safe_dump(content))
    assert str(opened(run).store.path) == "s.zarr"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError, match="put the store back"):
        opened(run)


def test_a_split_is_looked_up_in_both_stores(write_store: Callable[..., Store], tmp_path: Path) -> None:
    train = write_made(write_store, tmp_path / "a.zarr")
    test = write_shorter(write_store, tmp_path / "b.zarr", train="extra", test="val")
    settings = {"heads": ["linear"], "layers": "1", "lr": [1.0], "epochs": 1}
    run = fit_made(train, tmp_path / "run", test_store=test.path, **settings)
    assert opened(run).store.path == opened(run, "val").store.path == opened(run, "extra").store.path == test.path
    for name in ("train", "test"):
        assert opened(run, name).store.path == train.path
    with pytest.raises(InputError, match="'none'"):
        opened(run, "none")
    shutil.rmtree(test.path)
    write_shorter(write_store, Path(test.path), n_less=2, train="extra", test="val")
    with pytest.raises(InputError, match=r"holds other data than .* \(splits val\)"):
        opened(run)
