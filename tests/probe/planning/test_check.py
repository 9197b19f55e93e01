"""Every way in which a fit is refused before anything is read."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokenprobe.errors import InputError, StoreError
from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.store import Store, open_store

from .kit import MakeStore, plan_for, rewrite


@pytest.mark.parametrize(
    ("change", "refused", "taken"),
    [
        ({"grid": (1, 4)}, ["ep:queries=2", "linear:pool=max", "ep:queries=2,tokens=patch+prefix"],
         ["linear", "linear:pool=cls", "linear:pool=cls+mean", "ridge", "knn", "logreg:pool=cls"]),
        ({"n_prefix": 2}, ["linear:pool=cls", "ridge:pool=cls+mean", "ep:queries=2,tokens=patch+prefix"],
         ["linear", "ridge", "ep:queries=2"]),
    ],
    ids=["other grid", "other prefix"],
)  # fmt: skip
def test_layers_are_joined_where_the_tokens_that_a_head_reads_are_at_the_same_places(
    make_store: MakeStore, change: dict[str, Any], refused: list[str], taken: list[str]
) -> None:
    store = make_store()
    shapes = store.manifest.layers
    rewrite(store, layers=shapes | {"layer_02": replace(shapes["layer_02"], **change)})
    store = open_store(store.path)
    assert len(plan_for(store, layers="0+2", heads=taken).grid.heads) == len(taken)
    for head in refused:
        message = rf"head '{re.escape(head)}' cannot join layers '0\+2': they differ .* \(0: 2×2 \+ 1, 2: .*pool=mean"
        with pytest.raises(InputError, match=message):
            plan_for(store, layers="0+2", heads=["linear", head])


def test_a_mean_over_normed_tokens_needs_the_tokens(make_store: MakeStore) -> None:
    store = make_store(kinds=["mean"])
    norm = {"kind": "LayerNorm", "eps": 1e-6, "weight": [1.0] * 8, "bias": [0.0] * 8}
    rewrite(store, final_norm=norm)
    with pytest.raises(InputError, match=r"head 'linear:pool=mean' reads 'patch' tokens, but .* has none"):
        plan_for(open_store(store.path), norm="final")
    assert plan_for(open_store(store.path)).data.norm is None


def test_a_norm_of_other_channels_than_a_layers_is_refused(make_store: MakeStore) -> None:
    """As in hierarchical backbones, whose norm is of the last layer alone."""
    store = make_store()
    shapes = store.manifest.layers
    norm = {"kind": "LayerNorm", "eps": 1e-6, "weight": [1.0] * 8, "bias": [0.0] * 8}
    rewrite(store, final_norm=norm, layers=shapes | {"layer_00": replace(shapes["layer_00"], dim=4)})
    assert plan_for(open_store(store.path), norm="final", layers="2", heads=["linear:pool=cls"]).data.norm is not None
    with pytest.raises(InputError, match=r"norm 'final': the tokens of layer 0 are 4 wide, but the final norm has"):
        plan_for(open_store(store.path), norm="final", layers="0,2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": ["linaer"]}, "unknown head 'linaer'; known: linear, "),
        ({"heads": ["ep:querys=4"]}, "unknown setting of head 'ep' 'querys'; known: queries"),
        ({"heads": ["ep:queries=5"]}, "ep with queries=5, d_out=1 on tokens 8 wide"),
        ({"heads": ["linear:pool=cla"]}, "unknown setting pool of linear 'cla'; known: cls, "),
        ({"heads": []}, "no head or no weight decay given: there is nothing to fit"),
        ({"weight_decay": []}, "no head or no weight decay given: there is nothing to fit"),
        ({"layers": "1"}, "unknown layer of the store '1'; known: 0, 2"),
        ({"layers": "-4"}, "unknown layer of the store '-4'; known: "),
        ({"layers": "some"}, "layers 'some': expected all, lastN, or indices"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; known: adamw, "),
        ({"protocol": "papers"}, "unknown protocol 'papers'; known: paper, select"),
        ({"amp": "float6"}, "unknown amp 'float6'; known: float16, bfloat16"),
        ({"cache": "dsk"}, "unknown cache 'dsk'; known: disk, "),
        ({"norm": "last"}, "unknown norm 'last'; known: "),
        ({"norm": "final"}, "norm 'final': the store '.*' holds no final norm of 'timm:none'; give --norm none"),
        ({"shots": ["0"]}, "shots '0': expected full, or a number of images per class"),
        ({"shots": ["19"]}, r"shots 19: class 'class 0' has 18 images to train on, and 2 other classes have too few"),
        ({"fraction": [2.0]}, "fraction 2.0: expected a number between 0 and 1"),
        ({"min_steps": -1}, "min_steps -1: expected at least 0"),
        ({"val_split": "dev"}, "unknown split 'dev'; known: "),
        ({"val_split": "train"}, "split 'train' is both trained on and selected on; give another --val-split"),
        ({"val_split": "test"}, "has no split named test, val, validation beside 'train' and 'test'"),
        ({"heads": ["knn:k=55"]}, r"k=55 neighbours of 54 training images; give k of at most 54 \(shots full\)"),
        ({"val_split": "test", "test_split": "test"}, "split 'test' is both reported on and selected on"),
        (
            {"val_split": "test", "protocol": "paper"},
            "val_split 'test' has no use under protocol 'paper', which selects",
        ),
        ({"test_split": "train"}, "split 'train' is both trained on and reported on; give another --test-split"),
        ({"epochs": 0}, "epochs 0: expected at least 1"),
        ({"seeds": 0}, "seeds 0: expected at least 1"),
        ({"batch_size": 0}, "batch_size 0: expected at least 2"),
        ({"batch_size": 1}, "batch_size 1: expected at least 2"),  # BatchNorm has no statistics of one image
        ({"seed": -1}, "seed -1"),
        ({"warmup_epochs": 90}, "warmup_epochs 90.0: expected 0 or more, and fewer than 90 epochs"),
        ({"warmup_epochs": -0.5}, "warmup_epochs -0.5: expected 0 or more"),
        ({"warmup_epochs": float("nan")}, "^warmup_epochs nan: expected a finite number$"),
        ({"clip_grad": 0}, "clip_grad 0.0: expected a norm above 0"),
        ({"noise": -0.1}, "noise -0.1, noise_prob 0.5: expected a deviation of 0 or more, and a probability above 0"),
        ({"noise_prob": 0}, "noise 0.0, noise_prob 0.0: expected"),
        ({"noise_prob": 1.1}, "noise 0.0, noise_prob 1.1: expected"),
        ({"class_weights": "inverse"}, "class_weights 'inverse'"),
        ({"lr": [0.1, 0.0]}, r"lr \[0.1, 0.0\], weight_decay \[0.0\]: expected rates above 0, decays of 0 or more"),
        ({"lr": [float("nan")]}, "^lr nan: expected a finite number$"),
        ({"lr": [float("inf")]}, "^lr inf: expected a finite number$"),
        ({"weight_decay": [-1.0]}, r"weight_decay \[-1.0\]: expected rates above 0, decays of 0 or more"),
        ({"weight_decay": [float("nan")]}, "^weight_decay nan: expected a finite number$"),
        ({"val": 0.0}, "val 0.0: expected a fraction between 0 and 1"),
        ({"train_split": "trian"}, "unknown split 'trian'; known: train, "),
        ({"test_split": "tests"}, "unknown split 'tests'; known: test, train"),
        ({"device": "tpu"}, "unknown device 'tpu'; expected auto, cpu, cuda or cuda:N"),
        ({"device": "meta"}, "device 'meta'"),  # torch knows it, but nothing can be trained there
        ({"device": "cuda:99"}, r"device 'cuda:99' asked for, but torch finds \d+ CUDA device\(s\)"),
        ({"cache": "gpu"}, "cache 'gpu' needs a GPU, but the device is 'cpu'; give --cache ram or disk"),
    ],
    ids=lambda value: ",".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_refused(small_store: Store, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_for(small_store, **changes)


def test_a_missing_gpu_is_no_reason_to_take_another_device(small_store: Store) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(InputError, match=r"device 'cuda' asked for, but torch finds 0 CUDA device\(s\)"):
        plan_for(small_store, device="cuda")


def test_a_head_without_its_tokens_is_refused(make_store: MakeStore) -> None:
    store = make_store(kinds=["patch", "mean"])
    expected = r"head 'linear:pool=cls' reads 'prefix' tokens, but train/layer_00 of '.*/s.zarr' has none"
    with pytest.raises(InputError, match=expected):
        plan_for(store, heads=["linear:pool=cls"])


@pytest.mark.parametrize("layers", ["all", "0", "0+2"])
@pytest.mark.parametrize("head", ["linear:pool=embedding", "ridge:pool=embedding"])
def test_a_layer_without_an_embedding_is_refused(make_store: MakeStore, head: str, layers: str) -> None:
    expected = (
        rf"^head '{head}' reads 'embedding' tokens, but train/layer_00 of '.*/s.zarr' has none; only the last layer of "
        "open_clip backbones has an embedding: give --layers -1 for them, and another pool, such as mean, for others$"
    )
    with pytest.raises(InputError, match=expected):
        plan_for(make_store(embedding=True), heads=[head], layers=layers)


def test_a_store_without_an_embedding_is_refused(small_store: Store) -> None:
    with pytest.raises(InputError, match=r"reads 'embedding' tokens, but train/layer_02 of .* has none; only the last"):
        plan_for(small_store, heads=["linear:pool=embedding"], layers="-1")


def test_a_store_without_a_test_split_is_refused(make_store: MakeStore) -> None:
    expected = (
        r"has no split named test, val, validation beside 'train' \(it has dev, train\); name the one .* --test-split"
    )
    store = make_store(["train", "dev"])
    with pytest.raises(InputError, match=expected):
        plan_for(store)
    assert plan_for(store, test_split="dev").data.test.name == "dev"


def test_a_store_of_a_single_split_is_told_how_to_get_another(make_store: MakeStore) -> None:
    expected = (
        r"\(it has train\); extract one, from data of a single split with --split-fraction, or give --test-store$"
    )
    with pytest.raises(InputError, match=expected):
        plan_for(make_store(["train"]))


def test_a_layer_that_the_test_split_lacks_is_refused(make_store: MakeStore) -> None:
    store = make_store()
    splits = store.manifest.splits
    only_first = replace(splits["test"], layers={"layer_00": splits["test"].layers["layer_00"]})
    rewrite(store, splits=splits | {"test": only_first})
    with pytest.raises(InputError, match="unknown layer in split 'test' '2'; known: 0"):
        plan_for(open_store(store.path))


def test_splits_of_other_classes_are_refused(make_store: MakeStore) -> None:
    """Equal labels would mean different things."""
    store = make_store()
    splits = store.manifest.splits
    others = replace(splits["test"], classes=["class 2", "class 0", "class 1"])
    rewrite(store, splits=splits | {"test": others})
    with pytest.raises(InputError, match="class"):
        plan_for(open_store(store.path))


def test_a_class_with_one_training_image_cannot_be_split(write_store: Callable[..., Store], tmp_path: Path) -> None:
    labels = {"train": np.array([0, 0, 1]), "test": np.array([0, 1])}
    tokens = {split: {0: {"mean": np.zeros((len(y), 8), np.float32)}} for split, y in labels.items()}
    store = write_store(tmp_path / "s.zarr", tokens, labels, grid=(2, 2), block_rows=8)
    with pytest.raises(
        InputError, match="class 'class 1' has one training image, so none can be held out for selection"
    ):
        plan_for(store)
    assert len(plan_for(store, protocol="paper").grid.regimes[0].train_rows) == 3


def test_an_unfinished_layer_is_refused_and_others_are_not(make_store: MakeStore) -> None:
    store = make_store()
    journal = Path(store.path) / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    kept = [line for line in lines if "test/layer_02/patch/c.0.1.0.0" not in line]
    assert len(kept) == len(lines) - 1
    journal.write_text("".join(kept))
    rewrite(store, complete=False)
    unfinished = open_store(store.path)
    expected = r"test/layer_02/patch of '.*' is not complete \(1 of 3 blocks are missing\); run the same probe extract"
    with pytest.raises(StoreError, match=expected):
        plan_for(unfinished)
    assert plan_for(unfinished, layers="0").grid.layers == [LayerSet((0,))]
