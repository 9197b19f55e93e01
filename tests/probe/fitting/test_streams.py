"""What a layer's streams bring to training: joined layers, normed tokens, views by epoch; against stores made so."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.fitting.streams import LayerStreams, bytes_at_first
from tokenprobe.probe.grid.regimes import row_sets
from tokenprobe.store import Store, open_store

from ..kit import (
    BLOCK_ROWS,
    GRID,
    LABELS,
    LAYERS,
    assert_same,
    counted_bytes,
    fit_made,
    layer_plan_of,
    plain_training,
    plan_of,
    rewrite_root,
    tokens_of,
    write_made,
)

WriteStore = Callable[..., Store]
CPU = torch.device("cpu")
HEADS = ["ep:queries=4", "linear:pool=cls", "linear:pool=mean", "linear:pool=cls+mean", "aim:heads=2", "ridge"]
COMPARED = ["val_top1", "test_top1", "test_top5", "last_test_top1", "peak_test_top1", "best_epoch", "selected"]


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_joined_layers_are_one_layer_of_all_their_channels(write_store: WriteStore, tmp_path: Path, cache: str) -> None:
    apart = write_made(write_store, tmp_path / "apart.zarr")
    layers = {split: tokens_of(split) for split in LABELS}
    joined = {
        split: {0: {kind: np.concatenate([found[layer][kind] for layer in LAYERS], -1) for kind in found[0]}}
        for split, found in layers.items()
    }
    together = write_store(tmp_path / "together.zarr", joined, LABELS, grid=GRID, block_rows=BLOCK_ROWS)
    one = fit_made(apart, tmp_path / "one", layers="0+1", heads=HEADS, cache=cache)
    two = fit_made(together, tmp_path / "two", layers="0", heads=HEADS, cache=cache)
    assert set(one.results["layer"]) == {"0+1"} and set(one.results["n_params"]) == set(two.results["n_params"])
    assert one.results[COMPARED].equals(two.results[COMPARED])
    assert one.history["train_loss"].equals(two.history["train_loss"])


def test_means_of_stages_with_other_grids_are_joined(write_store: WriteStore, tmp_path: Path) -> None:
    """A stage of a hierarchical backbone has other tokens than the one before, and one mean as it has."""
    heads = ["linear:pool=mean", "linear:pool=cls", "ridge", "knn:k=3"]
    runs = []
    for name, grid in (("same", GRID), ("other", (1, 6))):
        store = write_made(write_store, tmp_path / f"{name}.zarr")
        shapes = store.manifest.layers
        changed = replace(store.manifest, layers=shapes | {"layer_01": replace(shapes["layer_01"], grid=grid)})
        rewrite_root(store, changed)
        runs.append(fit_made(open_store(store.path), tmp_path / name, layers="0+1", heads=heads, lr=[3.0]))
    assert_same(*runs)
    assert runs[1].results["test_top1"].max() > 0.5


NORMS: dict[str, dict[str, Any]] = {
    "LayerNorm": {
        "kind": "LayerNorm",
        "eps": 1e-3,
        "weight": [*np.linspace(0.5, 2, 8)],
        "bias": [*np.linspace(-1, 1, 8)],
    },
    "RMSNorm": {"kind": "RMSNorm", "eps": 1e-3, "weight": [*np.linspace(0.5, 2, 8)], "bias": None},
}


def normed(norm: dict[str, Any], tokens: np.ndarray) -> np.ndarray:
    """Apply a norm as its definition says, in float64."""
    x = tokens.astype(np.float64)
    if norm["kind"] == "LayerNorm":
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + norm["eps"])
    else:
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + norm["eps"])
    return x * np.array(norm["weight"]) + (0 if norm["bias"] is None else np.array(norm["bias"]))


@pytest.mark.parametrize("cache", ["ram", "disk"])
@pytest.mark.parametrize("kind", NORMS)
def test_the_final_norm_is_applied_to_every_token_before_anything_else(
    write_store: WriteStore, tmp_path: Path, kind: str, cache: str
) -> None:
    """The mean is of normed tokens: the norm of the mean, or of a vector of length one, is something else."""
    norm = NORMS[kind]
    store = write_made(write_store, tmp_path / "s.zarr", final_norm=norm)
    plan = plan_of(store, heads=HEADS, norm="final", cache=cache, layers="0,0+1")
    (regime,) = plan.grid.regimes
    for layers in plan.grid.layers:
        layer = layer_plan_of(plan, layers)
        assert layer.kinds == ["mean", "patch", "prefix"]
        streams = LayerStreams(layer, CPU)
        for stream, rows, split in (
            (streams.train(regime), regime.train_rows, "train"),
            (streams.test, streams.test_rows, "test"),
        ):
            found = [batch.arrays for batch in stream.in_order(rows)]
            for name in ("patch", "prefix"):
                expected = np.concatenate([normed(norm, tokens_of(split)[layer][name][rows]) for layer in layers], -1)
                assert np.concatenate([each[name].numpy() for each in found]) == pytest.approx(expected, abs=1e-5)
                if name == "patch":
                    means = np.concatenate([each["mean"].numpy() for each in found])
                    assert means == pytest.approx(expected.mean(1), abs=1e-5)


def test_a_fit_on_normed_tokens_is_that_of_a_store_of_normed_tokens(write_store: WriteStore, tmp_path: Path) -> None:
    norm = NORMS["LayerNorm"]
    raw = write_made(write_store, tmp_path / "raw.zarr", final_norm=norm)
    tokens = {
        split: {
            layer: {
                "patch": (patch := normed(norm, arrays["patch"])).astype(np.float32),
                "prefix": normed(norm, arrays["prefix"]).astype(np.float32),
                "mean": patch.mean(1).astype(np.float32),
            }
            for layer, arrays in tokens_of(split).items()
        }
        for split in LABELS
    }
    made = write_store(tmp_path / "n.zarr", tokens, LABELS, grid=GRID, block_rows=BLOCK_ROWS, dtype="float32")
    one = fit_made(raw, tmp_path / "one", heads=HEADS, norm="final")
    two = fit_made(made, tmp_path / "two", heads=HEADS)
    assert one.history["train_loss"].to_numpy() == pytest.approx(two.history["train_loss"].to_numpy(), rel=1e-4)
    assert np.abs(one.results["test_top1"] - two.results["test_top1"]).max() * 60 <= 1 + 1e-9


def test_the_embedding_is_left_as_it_is_by_the_final_norm(write_store: WriteStore, tmp_path: Path) -> None:
    store = write_made(write_store, tmp_path / "s.zarr", final_norm=NORMS["LayerNorm"])
    heads = ["linear:pool=embedding", "ridge:pool=embedding"]
    one, two = (fit_made(store, tmp_path / norm, heads=heads, layers="1", norm=norm) for norm in ("none", "final"))
    assert one.history.equals(two.history)
    assert one.results[COMPARED].equals(two.results[COMPARED])


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_epochs_take_views_in_turn_and_scoring_takes_the_first(
    write_store: WriteStore, tmp_path: Path, cache: str
) -> None:
    more = [tokens_of("train", view) for view in (1, 2)]
    store = write_made(write_store, tmp_path / "s.zarr", more_views=more)
    torch.set_default_dtype(torch.float64)
    try:
        run = fit_made(
            store, tmp_path / "run", heads=["ep:queries=4"], layers="1", lr=[10.0], epochs=7, warmup_epochs=1,
            protocol="paper", cache=cache,
        )  # fmt: skip
        expected = plain_training(10.0, 0, 7, 1, 16, n_views=3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert run.history["train_loss"].tolist() == pytest.approx([loss for loss, _ in expected], rel=1e-8)
    assert run.history["test_top1"].tolist() == pytest.approx([top1 for _, top1 in expected], abs=1e-12)


def test_held_out_images_are_scored_on_the_first_view(write_store: WriteStore, tmp_path: Path) -> None:
    """What other views hold of the images held out makes no difference."""
    plain = write_made(write_store, tmp_path / "plain.zarr", more_views=[tokens_of("train", 1)])
    held = plan_of(plain, val=0.2).grid.regimes[0].val_rows
    other = tokens_of("train", 1)
    for arrays in other.values():
        for values in arrays.values():
            values[held] = 0
    blanked = write_made(write_store, tmp_path / "blanked.zarr", more_views=[other])
    one, two = (fit_made(s, tmp_path / f"{Path(s.path).stem}-run", val=0.2) for s in (plain, blanked))
    assert one.history.equals(two.history)


def test_subsets_have_a_stream_of_their_own_where_the_rest_stays_on_disk(
    write_store: WriteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    plan = plan_of(store, heads=["ep:queries=4"], shots=["full", "2"], cache="auto")
    full, few = plan.grid.regimes
    kept = LayerStreams(layer_plan_of(plan, LayerSet((0,))), CPU)
    assert kept.train(full) is kept.train(few) is kept.val(few)
    layer = layer_plan_of(plan, LayerSet((0,)))
    rows = row_sets(plan.data, [full, few])
    apart = LayerStreams(replace(layer, rows=rows, places={"train": "disk", "subsets": "ram", "test": "disk"}), CPU)
    assert apart.train(full) is not apart.train(few)
    (batch,) = apart.train(few).in_order(few.train_rows)
    assert np.array_equal(batch.arrays["patch"].numpy(), tokens_of("train")[0]["patch"][few.train_rows])


@pytest.mark.parametrize("norm", ["none", "final"])
@pytest.mark.parametrize("cache", ["ram", "disk"])
@pytest.mark.parametrize("layers", ["1", "0+1", "stack:0+1"])
def test_reading_tells_of_every_byte_that_is_read(
    write_store: WriteStore, tmp_path: Path, cache: str, norm: str, layers: str
) -> None:
    store = write_made(write_store, tmp_path / "s.zarr", final_norm=NORMS["LayerNorm"])
    heads = ["ep:queries=4", "alf" if "stack" in layers else "linear:pool=cls+mean", "aim:heads=2,tokens=patch+prefix"]
    plan = plan_of(store, heads=heads, norm=norm, cache=cache, layers=layers, shots=["full", "4"])
    layer, told = layer_plan_of(plan, plan.grid.layers[0]), list[int]()
    with counted_bytes() as read:
        LayerStreams(layer, CPU, told.append)
    nothing_is_kept = (layers, cache, norm) == ("stack:0+1", "disk", "none")
    assert sum(told) == bytes_at_first(layer) >= sum(read) and (sum(read) > 0) is not nothing_is_kept
    means_are_made_in_memory = norm == "final" and cache == "ram"
    assert means_are_made_in_memory or sum(told) == sum(read)
    assert nothing_is_kept or len(told) > len(layer.rows), "window by window"
