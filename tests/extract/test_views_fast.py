"""Fast decoding: pixels against those of Pillow and of torch, the same crops, and unsupported transforms."""

import io

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from torch.nn.functional import interpolate

from tokenprobe.errors import InputError
from tokenprobe.extract.views import Augmentation, Pixels, RandomCrops, Transform, decoded_as, draw_crop

CROPS = Augmentation(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), seed=0)


def transform(**changes: object) -> Transform:
    fields: dict[str, object] = {"input_size": (16, 16), "interpolation": "bicubic", "crop_pct": 0.875}
    fields |= {"crop_mode": "center", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    return Transform(**fields | changes)  # type: ignore[arg-type]


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """A decoded JPEG with colour at several scales and a hard edge."""
    rng = np.random.default_rng(seed)
    layers = []
    for cell in (64, 16, 3):
        small = rng.integers(0, 256, (height // cell + 2, width // cell + 2, 3), dtype=np.uint8)
        layers.append(np.asarray(Image.fromarray(small).resize((width, height)), dtype=np.float64))
    pixels = np.mean(layers, axis=0)
    pixels[height // 4 : height // 2, width // 3 : width // 2] = (250, 5, 128)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=92)
    return Image.open(file)


def fast_and_exact(of: Image.Image, **changes: object) -> tuple[torch.Tensor, torch.Tensor]:
    fast, exact = (Pixels(decoded_as(decode, transform(**changes)))(of) for decode in ("fast", "exact"))
    assert fast.shape == exact.shape and fast.dtype == exact.dtype == torch.uint8
    return fast.int(), exact.int()


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (224, 224), (120, 140)], ids=str)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"interpolation": "bilinear"},
        {"crop_mode": "squash"},
        {"input_size": (64, 112)},
        {"crop_mode": "none", "crop_pct": None},
    ],
    ids=str,
)
def test_fast_pixels_are_at_most_two_grey_levels_from_the_exact_ones(
    size: tuple[int, int], changes: dict[str, object]
) -> None:
    """Photos in colour, in grey, with a palette, in CMYK, and with 16 bits."""
    whole = photo(*size)
    deep = Image.fromarray(np.asarray(whole.convert("L"), dtype=np.uint16) * 257)
    for each in (whole, whole.convert("L"), whole.convert("P"), whole.convert("CMYK"), deep):
        fast, exact = fast_and_exact(each, **{"input_size": (96, 96)} | changes)
        assert (fast - exact).abs().max() <= 2
        assert (fast - exact).abs().float().mean() < 0.25


def test_fast_pixels_are_those_of_torch() -> None:
    whole = photo(375, 500)
    tensor = torch.from_numpy(np.array(whole)).permute(2, 0, 1)[None]
    by_hand = interpolate(tensor, (109, 145), mode="bicubic", antialias=True)[0, :, 6:102, 24:120]
    fast, exact = fast_and_exact(whole, input_size=(96, 96))
    assert torch.equal(fast, by_hand.int()) and not torch.equal(fast, exact)


def test_fast_pixels_of_an_image_of_the_right_size_are_its_own() -> None:
    fast, exact = fast_and_exact(photo(12, 20), crop_mode="none", crop_pct=None, input_size=(12, 20))
    assert torch.equal(fast, exact)


@pytest.mark.parametrize("key", [f"image {number}" for number in range(8)])
def test_fast_views_are_the_same_crops(key: str) -> None:
    """Against Pillow that resamples rows before columns, as torch does.

    Between the two, values are clipped to 0 to 255, so the order decides about overshoots at edges. Pillow 13
    chooses it by size.
    """
    top, left, height, width, flipped = draw_crop(300, 400, key, 1, CROPS)
    cropped = photo(300, 400).crop((left, top, left + width, top + height))
    by_hand = cropped.resize((96, height), Image.Resampling.BICUBIC).resize((96, 96), Image.Resampling.BICUBIC)
    expected = TF.pil_to_tensor(TF.hflip(by_hand) if flipped else by_hand)
    fast = RandomCrops(decoded_as("fast", transform(input_size=(96, 96))), CROPS)(photo(300, 400), key, 1)
    assert (fast.int() - expected.int()).abs().max() <= 2


@pytest.mark.parametrize(("crop_mode", "filter_of"), [("border", "bicubic"), ("center", "lanczos")])
def test_a_transform_that_torch_does_not_know_is_refused(crop_mode: str, filter_of: str) -> None:
    asked = transform(crop_mode=crop_mode, interpolation=filter_of)
    assert decoded_as("exact", asked) == asked
    message = f"^--decode fast .* backbone wants {filter_of} with crop mode {crop_mode}; give --decode exact$"
    with pytest.raises(InputError, match=message):
        decoded_as("fast", asked)


def test_fast_is_said_in_json_and_exact_is_not() -> None:
    """Stores from before the option are exact, and their fingerprints stay."""
    assert decoded_as("fast", transform()).to_json() == transform().to_json() | {"decode": "fast"}
    assert "decode" not in decoded_as("exact", decoded_as("fast", transform())).to_json()
