"""The tower's own embedding of an image: in the store, and under heads."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.views import Pixels, normalise
from tokenprobe.probe import FitConfig, fit, load_head
from tokenprobe.store import open_store
from tokenprobe.store.verify import verify

from .kit import SMALL_CLIP, load_tower


@pytest.mark.parametrize("store", ["a.zarr", "a.h5"])
def test_the_last_layer_of_a_store_has_the_embedding_too(
    store: str, tiny_config: Callable[..., ExtractConfig], image_folder: Path, tmp_path: Path
) -> None:
    config = tiny_config(model="ViT-B-32", model_arg=SMALL_CLIP, image_size=[32], out=tmp_path / store, dtype="float16")
    assert verify(extract(config)) == []
    split = open_store(tmp_path / store)["test"]
    assert (split.shape(0).embedding, split.shape(1).embedding) == (0, 24)
    assert not split.has(0, "embedding")
    found = split.tokens(1, kind="embedding")
    assert (found.shape, found.dtype) == ((24, 24), np.float32)
    np.testing.assert_allclose(found, embedded(split.ids, image_folder).numpy(), rtol=1e-4, atol=1e-5)


def embedded(ids: Sequence[str], image_folder: Path) -> Tensor:
    """Return the tower's own embedding of test images."""
    backbone = load_tower("ViT-B-32", image_size=(32, 32))
    pixels = Pixels(backbone.transform)
    rows = torch.stack([pixels(Image.open(image_folder / "test" / key)) for key in ids])
    with torch.no_grad():
        return backbone.module(normalise(rows, backbone.transform))


def test_heads_are_fitted_to_it(tiny_config: Callable[..., ExtractConfig], image_folder: Path, tmp_path: Path) -> None:
    extract(tiny_config(model="ViT-B-32", model_arg=SMALL_CLIP, image_size=[32], out=tmp_path / "a.zarr"))
    heads = ["linear:pool=embedding", "linear:pool=cls", "ridge:pool=embedding"]
    config = FitConfig(out=tmp_path / "run", heads=heads, layers="-1", lr=[10.0], epochs=5, norm="final", device="cpu")
    results = fit(tmp_path / "a.zarr", config).results
    split = open_store(tmp_path / "a.zarr")["test"]
    embedding = embedded(split.ids, image_folder)
    for row in results[results["tokens"] == "embedding"].itertuples():
        guesses = load_head(tmp_path / "run", row.cell)(embedding[:, None]).argmax(1)
        assert row.test_top1 == pytest.approx((guesses.numpy() == split.labels).mean(), abs=1e-9)
        assert row.n_params == 24 * 3 + 3
    assert set(results["head"]) == {"linear", "ridge"} and results["test_top1"].max() > 0.5


def test_a_layer_before_the_last_alone_has_none(tiny_config: Callable[..., ExtractConfig], tmp_path: Path) -> None:
    config = tiny_config(model="ViT-B-32", model_arg=SMALL_CLIP, image_size=[32], out=tmp_path / "a.zarr")
    extract(replace(config, layers="0"))
    extract(replace(config, layers="-1"))
    split = open_store(tmp_path / "a.zarr")["train"]
    assert [split.has(layer, "embedding") for layer in (0, 1)] == [False, True]
