"""Pixels and normalisation, against torchvision and timm called by hand."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from tokenprobe.extract.views import (
    Augmentation,
    Crop,
    Pixels,
    RandomCrops,
    Transform,
    draw_crop,
    normalise,
    to_rgb,
    turned_upright,
)

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
CROPS = Augmentation(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), seed=0)


def transform(**changes: Any) -> Transform:
    fields: dict[str, Any] = {
        "input_size": (16, 16),
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": MEAN,
        "std": STD,
    }
    return Transform(**fields | changes)


def image(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("size", [(40, 28), (16, 16), (9, 50)])
@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({}, {}),
        ({"crop_pct": 1.0, "interpolation": "bilinear"}, {"crop_pct": 1.0, "interpolation": "bilinear"}),
        ({"crop_mode": "squash"}, {"crop_mode": "squash"}),
        ({"crop_mode": "border"}, {"crop_mode": "border"}),
    ],
)
def test_pixels_then_normalise_equal_timms_evaluation_transform(
    size: tuple[int, int], changes: dict[str, Any], settings: dict[str, Any]
) -> None:
    asked: dict[str, Any] = {
        "input_size": (3, 16, 16),
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": MEAN,
        "std": STD,
    }
    expected = create_transform(**asked | settings)(image(*size))
    pixels = Pixels(transform(**changes))(image(*size))
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 16, 16))
    # Both are a few float32 operations on the same bytes; only their order differs.
    torch.testing.assert_close(normalise(pixels[None], transform(**changes))[0], expected, rtol=1e-6, atol=1e-6)


def test_the_centre_crop_is_the_short_side_resized_and_cut_by_hand() -> None:
    by_hand = TF.center_crop(TF.resize(image(40, 28), [18], InterpolationMode.BICUBIC), [16, 16])
    pixels = Pixels(transform())(image(40, 28))
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(by_hand))


def test_mode_none_gives_an_image_of_the_right_size_back_untouched() -> None:
    pixels = Pixels(transform(crop_mode="none", crop_pct=None, input_size=(12, 20)))(image(12, 20))
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(image(12, 20)))


def test_mode_none_resizes_the_whole_image_where_sizes_differ() -> None:
    pixels = Pixels(transform(crop_mode="none", crop_pct=None, input_size=(12, 20)))(image(40, 28))
    whole = image(40, 28).resize((20, 12), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(whole))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "LA", "PA", "YCbCr", "HSV"])
def test_every_kind_of_image_becomes_rgb(mode: str) -> None:
    other = image(16, 16).convert(mode)
    pixels = Pixels(transform(crop_mode="none", crop_pct=None))(other)
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(other.convert("RGB")))


def test_a_grey_image_is_repeated_over_the_channels(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = Pixels(transform(crop_mode="none", crop_pct=None))(Image.fromarray(grey))
    np.testing.assert_array_equal(pixels.numpy(), np.stack([grey] * 3))


def test_normalise_scales_subtracts_and_divides_per_channel() -> None:
    pixels = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 2, 2) * 10
    exact = (pixels.double().numpy() / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    result = normalise(pixels, transform())
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), exact, rtol=1e-5, atol=1e-6)


def test_a_transform_is_plain_json() -> None:
    assert transform(crop_mode="none", crop_pct=None).to_json() == {
        "input_size": (16, 16),
        "interpolation": "bicubic",
        "crop_pct": None,
        "crop_mode": "none",
        "mean": MEAN,
        "std": STD,
    }


def test_a_transform_says_that_it_turns_images_only_if_it_does() -> None:
    assert "upright" not in transform(upright=False).to_json()
    assert transform(upright=True).to_json()["upright"] is True


@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9])
def test_an_image_is_turned_as_its_exif_says(orientation: int) -> None:
    """Orientations after exif.org: the place of the file's first row and first column in the displayed image."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6)).astype(np.uint8)
    seen = {
        2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.T,
        6: pixels[::-1].T, 7: pixels[::-1, ::-1].T, 8: pixels.T[::-1],
    }.get(orientation, pixels)  # fmt: skip
    file, exif = BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    with Image.open(file) as image:
        np.testing.assert_array_equal(np.asarray(turned_upright(image)), seen)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path, kind: str) -> None:
    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / f"a.{kind}")
    with Image.open(tmp_path / f"a.{kind}") as image:
        pixels = Pixels(Transform((64, 64), "bicubic", None, "none", (0.5,) * 3, (0.5,) * 3))(image)
    np.testing.assert_array_equal(pixels, np.broadcast_to(ramp // 256, (3, 64, 64)))


@pytest.mark.parametrize("transparency", [3, bytes(range(16))], ids=["one colour", "every colour"])
def test_a_palette_with_transparency_gives_its_colours_without_a_warning(transparency: int | bytes) -> None:
    file, indices = BytesIO(), np.arange(256, dtype=np.uint8).reshape(16, 16) % 16
    palette = np.random.default_rng(0).integers(0, 256, (16, 3)).astype(np.uint8)
    written = Image.fromarray(indices, "P")
    written.putpalette(palette.tobytes())
    written.save(file, "PNG", transparency=transparency)
    with Image.open(file) as image:
        np.testing.assert_array_equal(np.asarray(to_rgb(image)), palette[indices])


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_of_unknown_range_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode '{mode}' has 32-bit values of unknown range"):
        to_rgb(Image.new(mode, (8, 8)))


# --- random views -----------------------------------------------------------------------------------------


FROZEN = [
    Crop(top=192, left=234, height=280, width=234, flipped=False),
    Crop(top=3, left=201, height=455, width=371, flipped=True),
    Crop(top=39, left=105, height=330, width=385, flipped=False),
    Crop(top=5, left=193, height=359, width=310, flipped=False),
]
FROZEN_SEED_7 = Crop(top=32, left=160, height=385, width=384, flipped=False)


def keys(n: int) -> list[str]:
    return [f"class/{index:05d}.png" for index in range(n)]


def largest_gap(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest distance between two empirical distribution functions."""
    at = np.sort(np.concatenate([ours, theirs]))
    below = [np.searchsorted(np.sort(values), at, "right") / len(values) for values in (ours, theirs)]
    return float(np.abs(below[0] - below[1]).max())


@pytest.mark.parametrize("size", [(300, 400), (64, 64), (40, 200)], ids=str)
@pytest.mark.parametrize(("scale", "ratio"), [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.5, 0.6), (1.0, 2.0))], ids=str)
def test_crops_are_distributed_as_torchvisions(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    """Two samples of size n from one distribution differ this much in one of 1,000 draws: 1.95 sqrt(2 / n)."""
    n = 4000
    crops = Augmentation(scale, ratio, seed=3)
    ours = np.array([draw_crop(*size, key, 1, crops)[:4] for key in keys(n)])
    torch.manual_seed(0)
    empty = torch.empty(3, *size)
    theirs = np.array([RandomResizedCrop.get_params(empty, list(scale), list(ratio)) for _ in range(n)])
    for name, values in {
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
        "height": lambda box: box[:, 2],
        "width": lambda box: box[:, 3],
        "area": lambda box: box[:, 2] * box[:, 3],
        "ratio": lambda box: box[:, 3] / box[:, 2],
        "space right": lambda box: size[1] - box[:, 1] - box[:, 3],
    }.items():
        assert largest_gap(values(ours), values(theirs)) < 1.95 * (2 / n) ** 0.5, name


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (50, 60)], ids=str)
def test_crops_lie_within_the_image(size: tuple[int, int]) -> None:
    for key in keys(500):
        top, left, height, width, _ = draw_crop(*size, key, 1, CROPS)
        assert height >= 1 and width >= 1 and top >= 0 and left >= 0
        assert top + height <= size[0] and left + width <= size[1]


@pytest.mark.parametrize("size", [(100, 1000), (1000, 100), (100, 120)], ids=str)
def test_after_ten_boxes_too_large_the_crop_is_torchvisions_central_one(size: tuple[int, int]) -> None:
    """The whole area with a ratio other than the image's never fits."""
    scale, ratio = (1.0, 1.0), (0.8, 1.25)
    expected = RandomResizedCrop.get_params(torch.empty(3, *size), list(scale), list(ratio))
    for view in range(1, 20):
        assert draw_crop(*size, "a", view, Augmentation(scale, ratio, seed=0))[:4] == expected


def test_a_central_crop_keeps_a_pixel() -> None:
    assert draw_crop(1, 9, "a", 1, Augmentation((1.0, 1.0), (0.01, 0.1), seed=0))[:4] == (0, 4, 1, 1)


def test_half_of_the_crops_are_flipped() -> None:
    flipped = sum(draw_crop(40, 40, key, 1, CROPS).flipped for key in keys(4000))
    assert abs(flipped - 2000) < 4 * 4000**0.5 / 2  # four standard deviations


def test_draws_are_those_of_a_frozen_list() -> None:
    """The crops may never change, since stores are extended years later. This code made the values once."""
    assert [draw_crop(480, 640, key, view, CROPS) for key in ("ant/00.png", "bee/é.png") for view in (1, 2)] == FROZEN
    assert draw_crop(480, 640, "ant/00.png", 1, Augmentation(CROPS.scale, CROPS.ratio, seed=7)) == FROZEN_SEED_7


def test_another_seed_image_or_view_is_another_draw() -> None:
    drawn = {
        draw_crop(4000, 6000, key, view, Augmentation(CROPS.scale, CROPS.ratio, seed))
        for key in keys(10)
        for view in (1, 2, 3)
        for seed in (0, 1, 2**40)
    }
    assert len(drawn) == 10 * 3 * 3


@pytest.mark.parametrize("mode", ["none", "center"])
@pytest.mark.parametrize(("interpolation", "filter_of"), [("bicubic", "BICUBIC"), ("bilinear", "BILINEAR")])
def test_pixels_of_a_view_are_pillows_of_its_box(mode: str, interpolation: str, filter_of: str) -> None:
    crops = RandomCrops(transform(crop_mode=mode, interpolation=interpolation, input_size=(12, 20)), CROPS)
    seen = set()
    for key in keys(20):
        top, left, height, width, flipped = draw_crop(40, 28, key, 2, CROPS)
        by_hand = image(40, 28).crop((left, top, left + width, top + height))
        by_hand = by_hand.resize((20, 12), Image.Resampling[filter_of])
        if flipped:
            by_hand = by_hand.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = crops(image(40, 28), key, 2)
        assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 12, 20))
        np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(by_hand))
        seen.add(flipped)
    assert seen == {True, False}


def test_a_crop_of_any_kind_of_image_is_rgb() -> None:
    whole = Augmentation((1.0, 1.0), (1.0, 1.0), seed=0, flip=0.0)
    grey = image(16, 16).convert("L")
    pixels = RandomCrops(transform(), whole)(grey, "a", 1)
    np.testing.assert_array_equal(pixels.numpy(), np.stack([np.asarray(grey)] * 3))


def test_an_augmentation_is_plain_json() -> None:
    assert CROPS.to_json() == {
        "kind": "random_resized_crop",
        "scale": [0.08, 1.0],
        "ratio": [3 / 4, 4 / 3],
        "flip": 0.5,
        "seed": 0,
    }


NEEDS_GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def test_a_batch_in_any_memory_format_is_normalised_as_torchvision_does_each_image(device: str) -> None:
    """Bit for bit on a CPU; a GPU may round a division differently."""
    pixels = torch.arange(2 * 3 * 16 * 16).view(2, 3, 16, 16).to(torch.uint8)
    expected = torch.stack([TF.normalize(each.float() / 255, MEAN, STD) for each in pixels])
    for batch in (pixels, pixels.to(memory_format=torch.channels_last)):
        found = normalise(batch.to(device), transform())
        assert found.is_contiguous()
        tolerance = 0 if device == "cpu" else 1e-6
        torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=tolerance)
