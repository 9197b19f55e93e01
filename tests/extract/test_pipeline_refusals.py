"""Refusals of combinations that do not fit: data, weights, and a store with other settings."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tokenprobe.errors import InputError, MissingError, StoreError
from tokenprobe.extract import extract
from tokenprobe.store import open_store

from ..conftest import TINY_VIT
from .kit import BAD, MakeConfig, digests, made_vit


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_asked_for_but_absent_is_no_silent_fallback(tiny_config: MakeConfig, device: str) -> None:
    message = rf"^device '{device}' asked for, but torch finds 0 CUDA device\(s\)$"
    with pytest.raises(InputError, match=message):
        extract(tiny_config(device=device))


def test_missing_data_is_named(tiny_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"^no folder at '.*/none'"):
        extract(tiny_config(data=str(tmp_path / "none")))
    with pytest.raises(MissingError, match=r"^no checkpoint at '.*/none\.pth'"):
        extract(tiny_config(checkpoint=tmp_path / "none.pth"))


def test_prefix_tokens_of_a_backbone_without_any_are_refused(tiny_config: MakeConfig) -> None:
    with pytest.raises(InputError, match=r"^'timm:resnet10t' has no prefix tokens; give --tokens patch$"):
        extract(tiny_config(model="timm:resnet10t", model_arg={}, tokens=["prefix"]))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model_arg": TINY_VIT | {"embed_dim": 24}}, r"model_args\.embed_dim: stored 12, asked 24"),
        ({"model_arg": TINY_VIT | {"img_size": 32}}, r"transform\.input_size: stored .16, 16., asked .32, 32."),
        ({"seed": 1}, r"row_order\.seed: stored 0, asked 1"),
        ({"seed": 1}, r"weights: stored '[0-9a-f]{64}', asked '[0-9a-f]{64}'"),
        ({"dtype": "float32"}, "dtype: stored 'float16', asked 'float32'"),
        ({"amp": "bfloat16"}, "precision: stored 'float32', asked 'bfloat16'"),
        ({"row_order": "dataset"}, r"row_order\.kind: stored 'shuffled', asked 'dataset'"),
        ({"limit": 9}, r"test\.limit: stored None, asked \{'n': 9, 'seed': 0\}"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_store_made_differently_is_refused_naming_the_field(
    tiny_config: MakeConfig, whole: Path, changes: dict[str, Any], field: str
) -> None:
    before = digests(whole)
    with pytest.raises(StoreError, match=rf"^the store was made differently \(.*{field}.*\); write to another store"):
        extract(tiny_config(**changes, out=whole))
    assert digests(whole) == before


def test_changed_data_are_refused(tiny_config: MakeConfig, image_folder: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(image_folder, tmp_path / "copy"))
    extract(tiny_config(data=str(data), split=["test"], layers="0"))
    (data / "test" / "ant" / "00.png").unlink()
    with pytest.raises(StoreError, match=r"test\.n_images: stored 24, asked 23; test\.source: stored "):
        extract(tiny_config(data=str(data), split=["test"], layers="0"))


def test_a_store_is_of_the_weights_and_not_of_their_file(tiny_config: MakeConfig, tmp_path: Path) -> None:
    weights = made_vit(tmp_path / "a.safetensors").state_dict()
    config = tiny_config(checkpoint=tmp_path / "a.safetensors", no_pretrained=False, split=["test"], layers="0")
    before = digests(extract(config))
    torch.save({"model": weights}, tmp_path / "b.pth")
    assert digests(extract(replace(config, checkpoint=tmp_path / "b.pth"))) == before
    save_file(weights | {"cls_token": weights["cls_token"] + 1e-6}, tmp_path / "c.safetensors")
    with pytest.raises(StoreError, match=r"\(weights: stored '[0-9a-f]{64}', asked '[0-9a-f]{64}'\)"):
        extract(replace(config, checkpoint=tmp_path / "c.safetensors"))


def test_a_checkpoint_of_another_model_is_refused(tiny_config: MakeConfig, tmp_path: Path) -> None:
    made_vit(tmp_path / "a.safetensors", depth=2)
    with pytest.raises(InputError, match=r"a\.safetensors' does not fit: it lacks 12 of the backbone's 42 weights"):
        extract(tiny_config(checkpoint=tmp_path / "a.safetensors", no_pretrained=False))


def test_a_token_too_large_for_float16_names_layer_and_image(tiny_config: MakeConfig, tmp_path: Path) -> None:
    model = made_vit(tmp_path / "a.safetensors")
    weights = model.state_dict()
    weights["blocks.1.mlp.fc2.bias"] += 1e5
    save_file(weights, tmp_path / "a.safetensors")
    config = {"checkpoint": tmp_path / "a.safetensors", "no_pretrained": False, "row_order": "dataset"}
    message = r"^a token of 1e\+05 does not fit float16 \(layer 1, image 'ant/00\.png'\); store with --dtype bfloat16$"
    with pytest.raises(InputError, match=message):
        extract(tiny_config(**config, split=["train"]))
    store = open_store(extract(tiny_config(**config, dtype="float32", out=tmp_path / "wide.zarr", layers="1")))
    assert np.isfinite(store["train"].tokens(1)).all()
    assert store["train"].tokens(1).min() > 65504


@pytest.mark.usefixtures("messages")
def test_a_store_begun_otherwise_says_it_is_not_finished(
    tiny_config: MakeConfig, broken_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=BAD):
        extract(tiny_config(data=str(broken_folder), row_order="dataset"))
    extract(tiny_config(data=str(broken_folder), row_order="dataset", split=["test"]))
    assert "the store is not complete: it declares parts that this command does not make" in capsys.readouterr().err


def test_a_shard_that_would_have_to_move_rows_says_what_to_do(tiny_config: MakeConfig) -> None:
    extract(tiny_config(limit=10))
    with pytest.raises(StoreError, match="a shard moves no rows: give the larger --limit once without --shard"):
        extract(tiny_config(limit=20, shard="0/2"))
