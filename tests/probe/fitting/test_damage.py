"""A store with tokens that are not finite, by bit rot or another writer: the cells say so."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenprobe.probe import load_head
from tokenprobe.probe.batches.subsets import hold_out
from tokenprobe.probe.fitting.damage import damage_text, damaged_images
from tokenprobe.store import Store

from ..kit import BLOCK_ROWS, GRID, LABELS, fit_made, pooled_tokens, tokens_of

HEADS = ["ridge", "logreg", "knn:k=3|5", "linear:pool=mean", "linear:pool=cls", "ep:queries=2"]
KINDS = {"mean", "prefix", "patch"}
Damage = Callable[..., Store]


@pytest.fixture
def damage(write_store: Callable[..., Store], tmp_path: Path) -> Damage:
    """Write a store in which one number of an array of layer 1, of some images of a split, is another value."""

    def write(split: str, rows: list[int], value: float, kinds: set[str] = KINDS) -> Store:
        tokens = {name: tokens_of(name) for name in LABELS}
        for kind in kinds:
            array = tokens[split][1][kind]
            array.reshape(len(array), -1)[rows, 3] = value
        return write_store(tmp_path / "damaged.zarr", tokens, LABELS, grid=GRID, block_rows=BLOCK_ROWS)

    return write


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_cells_with_damaged_training_images_are_marked_and_never_selected(
    damage: Damage, tmp_path: Path, value: float
) -> None:
    train, _ = hold_out(LABELS["train"], 0.1, 0, ["a"] * 4)
    store = damage("train", train[[2, 7]].tolist(), value)
    run = fit_made(store, tmp_path / "run", heads=HEADS)
    fine, bad = (run.results[run.results["layer"] == layer] for layer in ("0", "1"))
    cause = f"2 of {len(train)} training images have tokens that are not finite"
    solved = bad["head"].isin(["ridge", "logreg", "knn"])
    assert set(bad["status"][solved]) == {f"diverged: {cause}"}
    assert set(bad["status"][~solved]) == {f"diverged in epoch 1: {cause}"}
    assert not bad["selected"].any() and bad[["val_top1", "test_top1", "peak_test_top1"]].isna().all(axis=None)
    assert not list((run.path / "heads").glob("*layer_01*"))
    assert not fine["status"].str.startswith("diverged").any() and fine["test_top1"].notna().all()
    summary = (run.path / "summary.md").read_text()
    said = f"{len(bad)} of {len(run.results)} cells diverged (layer 1): {cause}; probe verify names damaged files"
    assert f"* {said}\n" in summary


@pytest.mark.parametrize("split", ["val", "test"])
def test_damaged_images_that_are_scored_are_errors_and_are_counted(damage: Damage, tmp_path: Path, split: str) -> None:
    _, held = hold_out(LABELS["train"], 0.1, 0, ["a"] * 4)
    damaged, rows = {"val": ("train", held), "test": ("test", np.arange(60))}[split]
    bad = rows[[1, 4]]
    store = damage(damaged, bad.tolist(), np.nan)
    run = fit_made(store, tmp_path / "run", heads=HEADS, layers="1")
    other = {"val": "test", "test": "val"}[split]
    assert set(run.results[f"{split}_unscored"]) == {2} and set(run.results[f"{other}_unscored"]) == {0}
    assert not run.results["status"].str.startswith("diverged").any()
    labels = torch.from_numpy(LABELS[damaged])
    for row in run.results[run.results["head"] != "knn"].itertuples():
        guesses = load_head(run.path, row.cell)(pooled_tokens(store, damaged, 1, row.tokens)).argmax(1)
        hits = guesses == labels
        hits[bad] = False
        assert getattr(row, f"{split}_top1") == hits[rows].sum().item() / len(rows)
    images = {"val": "held-out", "test": "test"}[split]
    said = f"have scores that are not finite for 2 {images} images, counted as errors; probe verify names damaged files"
    n_cells = len(run.results)
    assert f"* {n_cells} of {n_cells} cells (layer 1) {said}\n" in (run.path / "summary.md").read_text()


def test_neighbours_of_a_damaged_image_are_no_guess(damage: Damage, write_store: Damage, tmp_path: Path) -> None:
    found = []
    for value in (np.nan, 0.0):
        store = damage("test", [5], value, {"mean"})
        found.append(fit_made(store, tmp_path / f"{value}", heads=["knn:k=3"], layers="1", protocol="paper").results)
        (tmp_path / "damaged.zarr").rename(tmp_path / f"{value}.zarr")
    hits = [round(60 * each["test_top1"].item()) for each in found]
    assert hits[0] in (hits[1], hits[1] - 1) and hits[1] > 30


def test_a_head_is_not_marked_for_damage_in_what_it_does_not_read(damage: Damage, tmp_path: Path) -> None:
    store = damage("train", [0, 1, 2], np.nan, {"prefix"})
    results = fit_made(store, tmp_path / "run", heads=HEADS, layers="1").results
    marked = results["status"].str.startswith("diverged")
    assert set(results["tokens"][marked]) == {"prefix"} and set(results["tokens"][~marked]) == {"mean", "patch"}


def test_rates_alone_are_to_blame_where_tokens_are_finite(damage: Damage, tmp_path: Path) -> None:
    run = fit_made(damage("train", [0], 1.0), tmp_path / "run", heads=["linear"], lr=[1e30, 1e31], layers="1")
    assert run.results["status"].str.match(r"diverged in epoch \d$").all()
    assert "2 of 2 cells diverged (base lr 1e+30, 1e+31)\n" in (run.path / "summary.md").read_text()


def test_an_image_is_damaged_by_any_number_of_any_array() -> None:
    patch, mean = torch.zeros(4, 3, 2), torch.zeros(4, 2, dtype=torch.float16)
    patch[1, 2, 1], mean[3, 0], mean[1, 0] = torch.nan, torch.inf, -torch.inf
    mask = damaged_images([patch, mean])
    assert mask.tolist() == [False, True, False, True]
    assert damage_text([mask, mask[:2]], 1234) == "3 of 1,234 training images have tokens that are not finite"
    assert damage_text([mask[:2]], 2) == "1 of 2 training images has tokens that are not finite"
    assert damage_text([mask[:1]], 1) is None
