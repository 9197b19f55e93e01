"""Stacked layers against a store whose one layer holds the same tokens side by side."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tokenprobe.errors import InputError
from tokenprobe.probe.run.results import Run
from tokenprobe.store import Store, open_store

from ..kit import BLOCK_ROWS, LABELS, LAYERS, fit_made, plan_of, rewrite_root, tokens_of, write_made

WriteStore = Callable[..., Store]
COMPARED = ["val_top1", "test_top1", "test_top5", "last_test_top1", "peak_test_top1", "best_epoch", "selected"]


def side_by_side(write_store: WriteStore, path: Path, kinds: list[str], grid: tuple[int, int]) -> Store:
    """Write a store of one layer: its patch tokens are those of every layer, one array after the other."""
    tokens = {}
    for split in LABELS:
        found = tokens_of(split)
        arrays = [found[layer][kind.replace("cls", "prefix")] for kind in kinds for layer in LAYERS]
        arrays = [values[:, None] if values.ndim == 2 else values for values in arrays]
        cut = [values[:, :1] if "cls" in kinds and values.shape[1] == 2 else values for values in arrays]
        patch = np.concatenate([values.astype(np.float32) for values in cut], axis=1)
        tokens[split] = {0: {"patch": patch, "mean": patch.mean(1)}}
    return write_store(path, tokens, LABELS, grid=grid, block_rows=BLOCK_ROWS, dtype="float32")


def assert_equal_results(stacked: Run, plain: Run) -> None:
    assert stacked.results[COMPARED].equals(plain.results[COMPARED])
    assert stacked.history["train_loss"].equals(plain.history["train_loss"])
    losses = stacked.history.groupby("cell")["train_loss"]
    assert (losses.last() < losses.first()).any()
    for column in ("n_params", "flops_forward", "flops_train"):
        assert stacked.results[column].tolist() == plain.results[column].tolist()


@pytest.mark.parametrize("cache", ["ram", "disk"])
@pytest.mark.parametrize(
    ("tokens", "kinds", "grid"),
    [
        ("patch", ["patch"], (4, 3)),
        ("patch+prefix", ["prefix", "patch"], (4, 4)),
        ("cls+mean", ["cls", "mean"], (2, 2)),
        ("mean", ["mean"], (2, 1)),
    ],
)
def test_stacked_layers_are_one_layer_of_all_their_tokens(
    write_store: WriteStore, tmp_path: Path, tokens: str, kinds: list[str], grid: tuple[int, int], cache: str
) -> None:
    apart = write_made(write_store, tmp_path / "apart.zarr", dtype="float32")
    together = side_by_side(write_store, tmp_path / "together.zarr", kinds, grid)
    heads = ["ep:queries=2", "aim:heads=2", "alf:heads=4"]
    of_stack = [f"{head},tokens={tokens}" for head in heads]
    one = fit_made(apart, tmp_path / "one", layers="stack:all", heads=of_stack, cache=cache)
    two = fit_made(
        together, tmp_path / "two", layers="0", heads=[f"{head},tokens=patch" for head in heads], cache=cache
    )
    assert set(one.results["layer"]) == {"stack:0+1"}
    assert set(one.results["tokens"]) == {"+".join(kinds)}
    assert_equal_results(one, two)


def test_the_default_of_alf_has_one_map_per_token(write_store: WriteStore, tmp_path: Path) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    run = fit_made(store, tmp_path / "run", layers="stack:all,stack:1", heads=["alf"], lr=[1.0])
    width, dim, classes = {"stack:0+1": 16, "stack:1": 16}, 8, 4  # 2·⌊8/4⌋ for each of 4 maps, 2·⌊8/2⌋ for each of 2
    for row in run.results.itertuples():
        of_maps = 4 * width[row.layer] * dim
        assert row.n_params == of_maps + dim + 6 * dim + dim + 2 * dim + dim * classes + classes


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("clip", "it learns a position for each place of one grid"),
        ("cbam", "its convolution needs the places of one grid"),
        ("dolg", "its BatchNorm takes one statistic over all tokens"),
        ("abmilp:cond=pe", "cond=pe adds a position"),
        ("linear", "it reads one vector per image"),
        ("ridge", "it reads one vector per image"),
        ("knn", "it reads one vector per image"),
    ],
)
def test_heads_that_need_one_layer_refuse_a_stack(
    write_store: WriteStore, tmp_path: Path, head: str, reason: str
) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    with pytest.raises(InputError, match=rf"cannot read the tokens of 2 layers side by side: {reason}.*; join their"):
        plan_of(store, layers="stack:all", heads=[head])
    assert plan_of(store, layers="0+1", heads=[head])


def test_heads_that_need_a_grid_need_patch_tokens(write_store: WriteStore, tmp_path: Path) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    with pytest.raises(InputError, match=r"unknown setting tokens of clip 'cls\+mean'; known: patch, patch\+prefix"):
        plan_of(store, heads=["clip:tokens=cls+mean"])


def test_layers_of_other_widths_or_places_are_not_stacked(write_store: WriteStore, tmp_path: Path) -> None:
    for change, message in (
        ({"dim": 4}, r"layers 'stack:0\+1' have tokens of different widths \(0: 8, 1: 4\) and .* channels: 0\+1"),
        (
            {"grid": (1, 6)},
            r"head 'ep:queries=4' cannot stack layers 'stack:0\+1': .* grid .* ep:tokens=mean",
        ),
    ):
        store = write_made(write_store, tmp_path / f"{next(iter(change))}.zarr")
        shapes = store.manifest.layers
        changed = replace(store.manifest, layers=shapes | {"layer_01": replace(shapes["layer_01"], **change)})
        rewrite_root(store, changed)
        with pytest.raises(InputError, match=message):
            plan_of(open_store(store.path), layers="stack:all", heads=["ep:queries=4"])
    assert plan_of(open_store(store.path), layers="stack:all", heads=["alf"])  # means and class tokens have no place


def test_a_stack_stands_beside_layers_and_joined_layers_of_one_run(write_store: WriteStore, tmp_path: Path) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    run = fit_made(store, tmp_path / "run", layers="all,0+1,stack:all", heads=["ep:queries=2"], lr=[1.0])
    assert run.results["layer"].tolist() == ["0", "1", "0+1", "stack:0+1"]
    again = fit_made(store, tmp_path / "run", layers="stack:0+1", heads=["ep:queries=2"], lr=[1.0])
    assert len(again.results) == 4
    assert "stack:0+1" in (run.path / "summary.md").read_text()
