"""Pixels and normalisation, against torchvision and timm called by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import InterpolationMode

from tokenprobe.extract.views import Pixels, Transform, normalise, to_rgb

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def transform(**changes: object) -> Transform:
    fields: dict[str, object] = {
        "input_size": (16, 16),
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": MEAN,
        "std": STD,
    }
    return Transform(**fields | changes)  # type: ignore[arg-type]


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
    size: tuple[int, int], changes: dict[str, object], settings: dict[str, object]
) -> None:
    asked = {"input_size": (3, 16, 16), "interpolation": "bicubic", "crop_pct": 0.875, "mean": MEAN, "std": STD}
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


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
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


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path, kind: str) -> None:
    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / f"a.{kind}")
    with Image.open(tmp_path / f"a.{kind}") as image:
        pixels = Pixels(Transform((64, 64), "bicubic", None, "none", (0.5,) * 3, (0.5,) * 3))(image)
    np.testing.assert_array_equal(pixels, np.broadcast_to(ramp // 256, (3, 64, 64)))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_values_of_unknown_range_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode '{mode}': 32-bit values of unknown range"):
        to_rgb(Image.new(mode, (8, 8)))
