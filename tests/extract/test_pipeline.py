"""Stage one as a whole: tokens, rows and the journal, against a direct forward and the files themselves."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TV

from tokenprobe.errors import StoreError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.store import open_store

from ..conftest import TINY_VIT
from .kit import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MakeConfig,
    assert_rounded,
    digests,
    hooked,
    journal_of,
    made_vit,
    pixels_by_hand,
)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["cls"]),
        ({"reg_tokens": 2}, ["cls", "reg0", "reg1"]),
        ({"class_token": False, "global_pool": "avg"}, []),
    ],
    ids=["class", "class and registers", "none"],
)
@pytest.mark.parametrize("batch_size", [4, 5])
def test_stored_tokens_equal_a_direct_forward(
    tiny_config: MakeConfig,
    image_folder: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    names: list[str],
    batch_size: int,
) -> None:
    model = made_vit(tmp_path / "a.safetensors", **changes)
    config = tiny_config(
        model_arg=TINY_VIT | changes, checkpoint=tmp_path / "a.safetensors", no_pretrained=False, batch_size=batch_size
    )
    store = open_store(extract(config))
    assert store.manifest.complete
    assert store.manifest.recipe.prefix_names == names
    assert store["test"].info.block_rows < batch_size, "every batch of test is padded"
    for split in ("train", "test"):
        rows = store[split]
        images = torch.stack([pixels_by_hand(image_folder / split / key) for key in rows.ids])
        for layer, outputs in enumerate(hooked(model.blocks, model, images)):
            patch = outputs[:, len(names) :]
            assert_rounded(rows.tokens(layer), patch)
            np.testing.assert_allclose(rows.tokens(layer, kind="mean"), patch.mean(1), rtol=1e-5, atol=1e-5)
            assert rows.has(layer, "prefix") == bool(names)
            if names:
                assert_rounded(rows.tokens(layer, kind="prefix"), outputs[:, : len(names)])


def test_float32_tokens_are_not_rounded_at_all(tiny_config: MakeConfig, image_folder: Path, tmp_path: Path) -> None:
    model = made_vit(tmp_path / "a.safetensors")
    config = tiny_config(checkpoint=tmp_path / "a.safetensors", no_pretrained=False, dtype="float32", batch_size=3)
    rows = open_store(extract(config))["test"]
    images = torch.stack([pixels_by_hand(image_folder / "test" / key) for key in rows.ids])
    for start in range(0, len(rows), 3):  # the batches of the extraction: the same sums in the same order
        for layer, outputs in enumerate(hooked(model.blocks, model, images[start : start + 3])):
            stored = rows.tokens(layer, range(start, start + 3))
            # Normalisation by hand rounds in another order, by an ulp of a pixel.
            np.testing.assert_allclose(stored, outputs[:, 1:], rtol=1e-5, atol=1e-5)


def test_a_convolutional_model_stores_its_maps_row_by_row_with_a_shape_for_each_layer(
    tiny_config: MakeConfig, image_folder: Path
) -> None:
    arguments: dict[str, Any] = {"pretrained_cfg_overlay": {"input_size": [3, 64, 64]}}
    config = tiny_config(model="timm:resnet10t", model_arg=arguments, split=["test"], limit=6, seed=2)
    store = open_store(extract(config))
    torch.manual_seed(2)
    model: Any = timm.create_model("resnet10t", num_classes=0, **arguments).eval()
    transform = create_transform(**resolve_model_data_config(model))
    rows = store["test"]
    files = [image_folder / "test" / key for key in rows.ids]
    images = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    outputs = hooked([model.act1, model.layer1, model.layer2, model.layer3, model.layer4], model, images)
    assert store.layers == [0, 1, 2, 3, 4]
    assert store.manifest.recipe.prefix_names == []
    for layer, maps in enumerate(outputs):
        _, dim, height, width = maps.shape
        shape = rows.shape(layer)
        assert (shape.grid, shape.dim, shape.n_prefix) == ((height, width), dim, 0)
        by_row = np.stack([maps[:, :, r, c] for r in range(height) for c in range(width)], 1)
        assert_rounded(rows.tokens(layer), by_row)
        np.testing.assert_allclose(rows.tokens(layer, kind="mean"), maps.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_weights_with_mean_and_std_get_scaling_and_normalisation_alone(tiny_config: MakeConfig, tmp_path: Path) -> None:
    """Views of (16, 24) pixels: images of that size stay unchanged, others are resized without a crop."""
    arguments = TINY_VIT | {"img_size": [16, 24]}
    model = made_vit(tmp_path / "a.safetensors", img_size=(16, 24))
    save_file(model.state_dict(), tmp_path / "a.safetensors", {"mean": "[0.1, 0.2, 0.3]", "std": "[0.4, 0.5, 0.6]"})
    exact = np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3)).astype(np.uint8)
    other = np.random.default_rng(1).integers(0, 256, (3, 20, 30)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_exact=exact, y_exact=[0, 1, 2], x_other=other, y_other=[2, 1, 0])
    config = tiny_config(
        model_arg=arguments,
        checkpoint=tmp_path / "a.safetensors",
        no_pretrained=False,
        data=f"npz:{tmp_path / 'a.npz'}",
        row_order="dataset",
    )
    store = open_store(extract(config))
    resized = [np.asarray(Image.fromarray(grey).resize((24, 16), Image.Resampling.BICUBIC)) for grey in other]
    for split, pixels in (("exact", exact), ("other", np.stack([np.stack(resized)] * 3, -1))):
        values = (pixels.astype(np.float64) / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]
        outputs = hooked(model.blocks, model, torch.from_numpy(values).float().permute(0, 3, 1, 2))
        assert_rounded(store[split].tokens(2), outputs[2][:, 1:])
    assert store.manifest.shape(0).grid == (4, 6)


def test_fast_decoding_is_another_recipe_and_close_to_the_exact_one(
    tiny_config: MakeConfig, image_folder: Path, tmp_path: Path
) -> None:
    """Tokens by hand from pixels that torch resampled, in one and two processes. A store refuses to mix both kinds."""
    model = made_vit(tmp_path / "a.safetensors")
    config = tiny_config(checkpoint=tmp_path / "a.safetensors", no_pretrained=False, split=["test"], views=1)
    exact = open_store(extract(replace(config, out=tmp_path / "exact.zarr")))
    fast = open_store(extract(replace(config, decode="fast")))
    again = extract(replace(config, decode="fast", workers=2, out=tmp_path / "again.zarr"))
    assert digests(fast.path) == digests(again)
    assert fast.manifest.recipe.transform == exact.manifest.recipe.transform | {"decode": "fast"}
    assert fast.manifest.fingerprint("test", 0) != exact.manifest.fingerprint("test", 0)
    images = []
    for key in fast["test"].ids:
        whole = TV.pil_to_tensor(Image.open(image_folder / "test" / key))
        image = TV.resize(whole, [18], InterpolationMode.BICUBIC, antialias=True)
        images.append(TV.normalize(TV.center_crop(image, [16, 16]).float() / 255, IMAGENET_MEAN, IMAGENET_STD))
    outputs = hooked(model.blocks, model, torch.stack(images))[2][:, 1:]
    assert_rounded(fast["test"].tokens(2), outputs)
    difference = np.abs(exact["test"].tokens(2).astype(np.float32) - outputs)
    assert 0 < difference.mean() < 0.02 * np.abs(outputs).mean()
    with pytest.raises(StoreError, match=r"transform\.decode: stored 'fast', asked nothing"):
        extract(replace(config, decode="exact"))


def test_labels_and_ids_are_those_of_the_folder(tiny_config: MakeConfig, image_folder: Path) -> None:
    store = open_store(extract(tiny_config(layers="0")))
    for split in ("train", "test"):
        rows = store[split]
        files = sorted((image_folder / split).glob("*/*.png"))
        assert sorted(rows.ids) == [f"{file.parent.name}/{file.name}" for file in files]
        assert [rows.classes[label] for label in rows.labels] == [key.split("/")[0] for key in rows.ids]


def test_shuffled_and_dataset_order_hold_the_same_tokens_by_id(tiny_config: MakeConfig, tmp_path: Path) -> None:
    shuffled = open_store(extract(tiny_config(layers="1")))["train"]
    sorted_rows = open_store(extract(tiny_config(layers="1", row_order="dataset", out=tmp_path / "b.zarr")))["train"]
    assert sorted_rows.ids == sorted(sorted_rows.ids) != shuffled.ids
    places = [sorted_rows.ids.index(key) for key in shuffled.ids]
    np.testing.assert_array_equal(shuffled.labels, sorted_rows.labels[places])
    # Another batch around an image may change the last bits of a float32 sum.
    np.testing.assert_allclose(
        shuffled.tokens(1, kind="mean"), sorted_rows.tokens(1, places, kind="mean"), rtol=1e-5, atol=1e-6
    )


def test_a_limit_is_class_balanced_and_seeded(tiny_config: MakeConfig, tmp_path: Path) -> None:
    drawn = [
        open_store(extract(tiny_config(layers="0", limit=10, seed=seed, out=tmp_path / f"{run}.zarr")))
        for run, seed in enumerate((0, 0, 1))
    ]
    for store in drawn:
        for split in ("train", "test"):
            assert sorted(Counter(store[split].labels.tolist()).values()) == [3, 3, 4]
    assert drawn[0]["train"].ids == drawn[1]["train"].ids
    assert set(drawn[0]["train"].ids) != set(drawn[2]["train"].ids)
    assert drawn[0].manifest.splits["train"].limit == {"n": 10, "seed": 0}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("amp", "tolerance"), [("off", 1e-3), ("bfloat16", 0.1)])
def test_a_gpu_gives_the_tokens_that_the_cpu_gives(
    tiny_config: MakeConfig, tmp_path: Path, amp: str, tolerance: float
) -> None:
    """The tolerance follows the products: float32 is exact, bfloat16 has eight bits, through three blocks."""
    stores = [
        open_store(extract(tiny_config(out=tmp_path / f"{device}.zarr", device=device, amp=amp, dtype="float32")))
        for device, amp in (("cpu", "off"), ("cuda", amp))
    ]
    for layer in (0, 1, 2):
        on_cpu, on_gpu = (store["train"].tokens(layer) for store in stores)
        assert stores[0]["train"].ids == stores[1]["train"].ids
        np.testing.assert_allclose(on_gpu, on_cpu, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("messages")
def test_keys_of_a_checkpoint_without_a_place_are_listed_and_ignored(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = made_vit(tmp_path / "a.safetensors")
    plain = extract(tiny_config(checkpoint=tmp_path / "a.safetensors", out=tmp_path / "plain.zarr", layers="0"))
    assert "ignored" not in capsys.readouterr().err
    extra = {f"decoder.{index}": torch.zeros(1) for index in range(7)}
    torch.save({"model": model.state_dict() | extra}, tmp_path / "b.pth")
    out = extract(tiny_config(checkpoint=tmp_path / "b.pth", layers="0"))
    shown = ", ".join(f"model.{name}" for name in list(extra)[:5])
    said = capsys.readouterr().err.splitlines()
    assert "checkpoint: 42 of the backbone's 42 weights loaded from 'model'" in said
    assert f"checkpoint: 7 ignored, not in the backbone: {shown}, …" in said
    assert digests(out) == digests(plain)


def test_the_journal_keeps_what_the_store_may_not(tiny_config: MakeConfig, image_folder: Path) -> None:
    store = open_store(extract(tiny_config(layers="0")))
    events = {entry["event"]: entry for entry in journal_of(store) if "event" in entry}
    assert events["start"]["process"] == os.getpid()
    assert events["finish"]["n_images"] == 84


def test_the_journal_keeps_the_settings_with_absolute_paths(
    tiny_config: MakeConfig, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_vit(tmp_path / "a.safetensors")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").symlink_to(image_folder)
    config = tiny_config(data="images", out="b.zarr", checkpoint="a.safetensors", no_pretrained=False, layers="0")
    (_, start, _) = [entry for entry in journal_of(open_store(extract(config))) if "event" in entry]
    expected = replace(
        config,
        data=f"folder:{tmp_path}/images",
        out=f"{tmp_path}/b.zarr",
        checkpoint=f"{tmp_path}/a.safetensors",
    )
    assert ExtractConfig(**start["config"]) == expected
