"""Which data a fit takes: another store's test split, several stores, images with several labels."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from tokenprobe.errors import InputError
from tokenprobe.probe import FitConfig, fit, load_head
from tokenprobe.store import Store

from ..kit import (
    BLOCK_ROWS,
    GRID,
    HEADS,
    LABELS,
    assert_same,
    fit_made,
    plan_of,
    pooled_tokens,
    rewrite_root,
    tokens_of,
    write_made,
)

WriteStore = Callable[..., Store]
SAME = ["layer", "head", "lr", "seed", "shots", "val_top1", "test_top1", "last_test_top1", "best_epoch", "selected"]


def test_a_test_split_of_another_store_is_scored_like_ones_own(write_store: WriteStore, tmp_path: Path) -> None:
    whole = write_made(write_store, tmp_path / "whole.zarr")
    train = write_store(
        tmp_path / "train.zarr", {"train": tokens_of("train")}, {"train": LABELS["train"]}, grid=GRID,
        block_rows=BLOCK_ROWS,
    )  # fmt: skip
    run = fit_made(train, tmp_path / "apart", test_store=whole.path)
    assert_same(fit_made(whole, tmp_path / "run"), run)


@pytest.mark.parametrize("of_test", ["itself", "a copy", "other types"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"test_split": "train"},
            r"88 images of split 'train' of '.*' would be both trained on and reported on: split",
        ),
        (
            {"val_split": "test", "test_split": "test"},
            r"60 images of split 'test' .* both reported on and selected on:",
        ),
    ],
)
def test_a_store_of_the_same_images_is_no_other_test_set(
    write_store: WriteStore, tmp_path: Path, of_test: str, settings: dict[str, Any], message: str
) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    path = tmp_path / {"itself": "s.zarr", "a copy": "copy.zarr", "other types": "float32.zarr"}[of_test]
    if of_test == "a copy":
        shutil.copytree(store.path, path)
    elif of_test == "other types":
        write_made(write_store, path, dtype="float32")
    with pytest.raises(InputError, match=message):
        plan_of(store, test_store=path, **settings)
    assert plan_of(store, test_store=path, test_split="test").data.test.name == "test"


def test_equal_ids_of_other_images_are_no_overlap(write_store: WriteStore, tmp_path: Path) -> None:
    """Ids may be positions in a file. The hash of the list of images tells two lists apart."""
    store, other = (write_made(write_store, tmp_path / name) for name in ("s.zarr", "other.zarr"))
    of_train = replace(other.manifest.splits["train"], source="1" * 32)
    rewrite_root(other, replace(other.manifest, splits=other.manifest.splits | {"train": of_train}))
    data = plan_of(store, test_store=other.path, test_split="train").data
    assert data.test.ids == data.train.ids


@pytest.mark.usefixtures("messages")
def test_several_stores_are_swept_into_one_run(
    write_store: WriteStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_made(write_store, tmp_path / "one.zarr", model="timm:vit_a")
    two = write_made(write_store, tmp_path / "two.h5", blank=range(40), model="timm:local/vit_b")
    config = FitConfig(out=tmp_path / "both", heads=HEADS, lr=[1.0], epochs=3, batch_size=16, device="cpu")
    both = fit([one.path, two.path], config)
    data = "80 training, 8 held-out and 60 test images"
    assert capsys.readouterr().err.startswith(
        f"12 cells to train on 4 layers\nvit_a: {data}\nlocal_vit_b: {data}\nfit layer "
    )
    assert both.results["model"].value_counts().to_dict() == {"timm:vit_a": 6, "timm:local/vit_b": 6}
    assert both.results["cell"].is_unique and both.results["cell"].str.startswith(("vit_a-", "local_vit_b-")).all()
    for store in (one, two):
        alone = fit_made(store, tmp_path / f"{Path(store.path).stem}-run", lr=[1.0], epochs=3)
        part = both.results[both.results["store"] == str(store.path)].reset_index(drop=True)
        assert part[["cell", *SAME]].equals(alone.results[["cell", *SAME]])


@pytest.mark.usefixtures("messages")
def test_a_store_may_join_a_run_later(
    write_store: WriteStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stores of one model are told apart by what they hold."""
    one = write_made(write_store, tmp_path / "one.zarr")
    two = write_made(write_store, tmp_path / "two.zarr", dtype="float32", blank=range(40))
    fit_made(one, tmp_path / "run", layers="0")
    capsys.readouterr()
    settings: dict[str, Any] = {"heads": HEADS, "lr": [1.0, 10.0], "epochs": 4, "batch_size": 16, "device": "cpu"}
    both = fit([one.path, two.path], FitConfig(out=tmp_path / "run", layers="0", **settings))
    assert "6 cells to train on 1 layer\n" in capsys.readouterr().err
    assert both.results["cell"].is_unique and len(both.results) == 12
    named = both.results.groupby("store")["cell"].first()
    assert named[str(one.path)].startswith("none-layer_00") and named[str(two.path)].startswith("none~")
    fit([two.path, one.path], FitConfig(out=tmp_path / "run", layers="0", **settings))
    assert "nothing to train" in capsys.readouterr().err


def test_the_same_data_twice_is_refused(write_store: WriteStore, tmp_path: Path) -> None:
    stores = [write_made(write_store, tmp_path / name).path for name in ("s.zarr", "s.h5")]
    with pytest.raises(
        InputError, match=r"'.*s.zarr' and '.*s.h5' hold the same features of the same images; give one"
    ):
        fit(stores, FitConfig(out=tmp_path / "run", heads=HEADS, device="cpu"))
    assert not (tmp_path / "run").exists()


def test_a_store_that_was_made_again_is_refused(write_store: WriteStore, tmp_path: Path) -> None:
    """A stale run must not be taken for one of the new features."""
    store = write_made(write_store, tmp_path / "s.zarr")
    fit_made(store, tmp_path / "run", layers="0", epochs=1)
    (tmp_path / "s.zarr").rename(tmp_path / "old.zarr")
    again = write_made(write_store, tmp_path / "s.zarr", dtype="float32", blank=range(9))
    message = (
        r"run '.*run' was made from other data than '.*s.zarr' now holds \(train, val, test images, backbone, transform"
    )
    with pytest.raises(InputError, match=message):
        fit_made(again, tmp_path / "run", layers="0", epochs=1)


def test_stores_that_differ_in_their_views_are_other_data_to_train_on(write_store: WriteStore, tmp_path: Path) -> None:
    """Training sees all views, scoring the first alone."""
    found = []
    for n_more in range(3):
        more = [tokens_of("train", view) for view in range(1, 1 + n_more)]
        store = write_made(write_store, tmp_path / f"{n_more}.zarr", more_views=more)
        found.append(plan_of(store).data.fingerprints())
    assert len({each["train"] for each in found}) == 3
    assert len({(each["val"], each["test"]) for each in found}) == 1


def several_labels(split: str) -> np.ndarray:
    """Return (n, 3): whether the class is odd, whether it is above 1, and a coin."""
    y = LABELS[split]
    return np.stack([y % 2, y > 1, np.random.default_rng(3).integers(0, 2, len(y))], axis=1).astype(np.int64)


def test_images_with_several_labels_are_scored_by_mean_average_precision(
    write_store: WriteStore, tmp_path: Path
) -> None:
    labels = {split: several_labels(split) for split in LABELS}
    store = write_made(write_store, tmp_path / "s.zarr", labels=labels)
    assert np.array_equal(store["train"].labels, labels["train"])
    run = fit_made(
        store, tmp_path / "run", heads=["ep:queries=4", "linear", "ridge", "logreg", "knn:k=5"], layers="1", epochs=20,
        lr=[30.0, 300.0],
        fraction=[0.5], shots=["full"], val=0.25,
    )  # fmt: skip
    assert run.results[["val_top1", "test_top1", "test_top5", "test_mean_class"]].isna().all(axis=None)
    for row in run.results[run.results["head"] != "knn"].itertuples():
        with torch.inference_mode():
            logits = load_head(run.path, row.cell)(pooled_tokens(store, "test", 1, row.tokens))
        precisions = [average_precision_score(y, s) for y, s in zip(labels["test"].T, logits.numpy().T, strict=True)]
        assert row.test_map == pytest.approx(np.mean(precisions), abs=1e-6)
    selected = run.results[run.results["selected"]]
    assert set(selected["head"]) == {"ep", "linear", "ridge", "logreg", "knn"} and len(selected) == 2 * 5
    learnt = selected[(selected["shots"] == "full") & selected["head"].isin(["ep", "linear", "ridge"])]
    assert (learnt["test_map"] > 0.6).all()  # a coin would give half
    assert run.history["test_map"].notna().all() and run.history["test_top1"].isna().all()
