"""Views: tokens against a direct forward of each crop, and stores extended by views."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torchvision.transforms import InterpolationMode

from tokenprobe.errors import StoreError
from tokenprobe.extract import extract
from tokenprobe.extract.views import Augmentation, draw_crop
from tokenprobe.probe import FitConfig
from tokenprobe.probe.batches.data import check_arrays
from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.planning.make_plan import make_plan
from tokenprobe.store import open_store
from tokenprobe.store.verify import verify

from .kit import IMAGENET_MEAN, IMAGENET_STD, MakeConfig, assert_rounded, digests, finished, hooked, made_vit


def test_tokens_of_a_view_equal_a_direct_forward_of_its_crop(
    tiny_config: MakeConfig, image_folder: Path, tmp_path: Path
) -> None:
    model = made_vit(tmp_path / "a.safetensors")
    config = tiny_config(
        checkpoint=tmp_path / "a.safetensors", no_pretrained=False, views=3, view_scale=[0.1, 0.5], seed=4
    )
    store = open_store(extract(config))
    assert store.manifest.complete
    assert (store["train"].info.views, store["test"].info.views) == (3, 1)
    crops = Augmentation((0.1, 0.5), (3 / 4, 4 / 3), seed=4)
    assert store["train"].info.augmentation == crops.to_json()
    assert store["test"].info.augmentation is None
    rows = store["train"]
    for view in (1, 2):
        images = []
        for key in rows.ids:
            with Image.open(image_folder / "train" / key) as opened:
                top, left, height, width, flipped = draw_crop(opened.height, opened.width, key, view, crops)
                cropped = TF.resized_crop(opened, top, left, height, width, [16, 16], InterpolationMode.BICUBIC)
            cropped = TF.hflip(cropped) if flipped else cropped
            images.append(TF.normalize(TF.to_tensor(cropped), IMAGENET_MEAN, IMAGENET_STD))
        for layer, outputs in enumerate(hooked(model.blocks, model, torch.stack(images))):
            assert_rounded(rows.tokens(layer, view=view), outputs[:, 1:])
            assert_rounded(rows.tokens(layer, view=view, kind="prefix"), outputs[:, :1])
            means = outputs[:, 1:].mean(1)
            np.testing.assert_allclose(rows.tokens(layer, view=view, kind="mean"), means, rtol=1e-5, atol=1e-5)


def test_every_view_of_every_image_is_another(whole_of_three_views: Path) -> None:
    train = open_store(whole_of_three_views)["train"]
    views = np.stack([train.tokens(2, view=view, kind="mean") for view in range(3)])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        same = [train.ids[row] for row in np.flatnonzero((views[one] == views[other]).all(1))]
        # Of an image of 18 × 20 pixels, views 1 and 2 are the same box by chance.
        assert same == (["ant/18.png"] if one == 1 else [])


def test_view_0_and_splits_for_testing_are_what_they_are_without_views(whole: Path, whole_of_three_views: Path) -> None:
    plain, several = (
        {name: digest for name, digest in digests(store).items() if "/c." in name}
        for store in (whole, whole_of_three_views)
    )
    assert plain == {name: digest for name, digest in several.items() if "/c.1." not in name and "/c.2." not in name}
    assert not any(name.startswith("test/") for name in several.keys() - plain.keys())


@pytest.mark.parametrize(
    "steps",
    [
        [{}, {"views": 3}],
        [{"views": 2}, {"views": 3, "workers": 2}],
        [{"views": 3, "layers": "1"}, {"views": 3, "workers": 1}],
        [{"split": ["train"], "views": 3}, {}],
        [{"views": 3, "tokens": ["prefix"]}, {"layers": "0"}, {"views": 3}],
    ],
    ids=str,
)
def test_a_store_extended_by_views_equals_one_extracted_whole(
    tiny_config: MakeConfig, whole_of_three_views: Path, steps: list[dict[str, Any]]
) -> None:
    times: dict[str, int] = {}
    for changes in steps:
        out = Path(extract(tiny_config(**changes)))
        for name in finished(out):
            assert times.setdefault(name, (out / name).stat().st_mtime_ns) == (out / name).stat().st_mtime_ns
    assert digests(out) == digests(whole_of_three_views)
    assert open_store(out).manifest.complete


def test_views_lost_in_a_crash_are_drawn_again_alike(tiny_config: MakeConfig, whole_of_three_views: Path) -> None:
    out = Path(extract(tiny_config(views=3)))
    for name in ("train/layer_00/patch/c.1.2.0.0", "train/layer_02/mean/c.2.0.0"):
        (out / name).unlink()
    extract(tiny_config(views=3, workers=2))
    assert digests(out) == digests(whole_of_three_views)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"view_scale": [0.08, 0.9]}, r"train\.augmentation\.scale: stored \[0\.08, 1\.0\], asked \[0\.08, 0\.9\]"),
        ({"view_ratio": [1.0, 1.0]}, r"train\.augmentation\.ratio: stored \[0\.75, 1\.33\d+\], asked \[1\.0, 1\.0\]"),
        ({"seed": 1}, r"train\.augmentation\.seed: stored 0, asked 1"),
    ],
    ids=str,
)
@pytest.mark.parametrize("views", [2, 5])
def test_views_drawn_differently_are_refused(
    tiny_config: MakeConfig, whole_of_three_views: Path, changes: dict[str, Any], field: str, views: int
) -> None:
    before = digests(whole_of_three_views)
    with pytest.raises(StoreError, match=field):
        extract(tiny_config(views=views, **changes, out=whole_of_three_views))
    assert digests(whole_of_three_views) == before


def test_any_split_whose_name_begins_with_train_has_views(tiny_config: MakeConfig, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    splits = ("train_a", "train_b", "val")
    arrays: dict[str, Any] = {f"x_{s}": pixels for s in splits} | {f"y_{s}": [0, 1, 0, 1] for s in splits}
    np.savez(tmp_path / "a.npz", **arrays)
    store = open_store(extract(tiny_config(data=f"npz:{tmp_path / 'a.npz'}", views=2, layers="0")))
    assert {split: store[split].info.views for split in store.splits} == {"train_a": 2, "train_b": 2, "val": 1}


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.usefixtures("messages")
def test_fewer_views_than_the_store_has_become_as_many(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], views: int
) -> None:
    """Else the new layer would lack views, and no command without --views could complete the store."""
    crops = {"view_scale": [0.5, 1.0], "view_ratio": [1.0, 1.5]}
    extract(tiny_config(layers="0", views=3, **crops))
    capsys.readouterr()
    out = Path(extract(tiny_config(layers="1", views=views)))
    assert "the store has 3 views of its training images, so this command makes 3 too" in capsys.readouterr().err
    assert open_store(out).manifest.complete and verify(out) == []
    whole = Path(extract(tiny_config(layers="0,1", views=3, **crops, out=tmp_path / "whole.zarr")))
    assert digests(out) == digests(whole)
    capsys.readouterr()
    extract(tiny_config(layers="2", split=["test"]))
    assert "training images" not in capsys.readouterr().err


@pytest.mark.usefixtures("messages")
def test_layers_without_the_views_of_others_are_read_in_the_views_that_they_have(
    tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(tiny_config())
    capsys.readouterr()
    store = open_store(extract(tiny_config(layers="2", views=3, split=["train"])))
    assert not store.manifest.complete
    assert "it declares parts that this command does not make" in capsys.readouterr().err
    warning = "trains on 1 of 3 views of 'train': layers {} of "
    for layers, n_views in {"0": 1, "2": 3, "0,2": 1, "1+2": 1, "stack:2": 3}.items():
        config = FitConfig(out="unused", layers=layers, heads=["linear:pool=mean"], batch_size=4)
        data = make_plan(store, config, "float32").data
        assert (data.views, len(data.train), data.holds_out) == (n_views, 60, True)
        assert (warning.format(layers) in capsys.readouterr().err) == (n_views == 1)
        check_arrays(data, LayerSet((0,) if layers == "0" else (2,)), [])
    with pytest.raises(StoreError, match=r"^train/layer_00/mean of .* is not complete \(\d+ of \d+ blocks"):
        store["train"].check_complete([0])
