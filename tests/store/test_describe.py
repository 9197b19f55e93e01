"""A store in words: every figure is the one in the files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.store import Store, open_store
from tokenprobe.store.describe import describe


def test_an_extracted_store_is_described(tiny_config: Callable[..., ExtractConfig]) -> None:
    out = extract(tiny_config(layers="0,2"))
    n_bytes = sum(json.loads(line).get("size", 0) for line in (out / "journal.jsonl").read_text().splitlines())
    shown = dict(line.split(maxsplit=1) for line in describe(open_store(out)))
    assert shown["model"].startswith("timm:VisionTransformer (depth=3, embed_dim=12, img_size=16")
    assert shown["pixels"] == "16 × 16, computed in float32"
    assert shown["layers"] == "0, 2 of 3"
    assert shown["tokens"] == "16 patch (4 × 4) + 1 prefix, 12 wide"
    assert (shown["prefix"], shown["dtype"], shown["rows"]) == ("cls", "float16", "shuffled, seed 0")
    assert shown["train"].startswith("60 images, 3 classes, 9 blocks of 7; fingerprint of layer_02 ")
    assert shown["bytes"] == f"{n_bytes:,}"
    assert shown["health"] == "complete"


@pytest.mark.parametrize("lost", [0, 5])
def test_an_unfinished_layer_is_named(write_store: Callable[..., Store], tmp_path: Path, lost: int) -> None:
    patch = np.zeros((40, 4, 6), np.float16)
    arrays = {"patch": patch, "mean": patch.astype(np.float32).mean(1)}
    tokens = {"train": {0: arrays, 5: arrays}}
    store = write_store(tmp_path / "a.zarr", tokens, {"train": np.zeros(40, np.int64)}, grid=(2, 2), block_rows=8)
    journal = store.path / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if f"layer_{lost:02d}/patch/c.0.2." not in line))
    store.files.mark_incomplete()
    shown = dict(line.split(maxsplit=1) for line in describe(open_store(store.path)))
    assert shown["health"] == "not complete"
    assert f"not finished: layers {lost};" in shown["train"]
