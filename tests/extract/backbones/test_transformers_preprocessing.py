"""Image processors as transforms: the same pixels as the processors' own, resampled by Pillow in both."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tokenprobe.errors import InputError
from tokenprobe.extract.backbones.transformers_preprocessing import transform_of
from tokenprobe.extract.views import Pixels, Transform, normalise

SQUARE = {"height": 32, "width": 32}
PROCESSORS: dict[str, Any] = {
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE),
    "dinov2": CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size=SQUARE, image_std=[0.2, 0.3, 0.4]),
    "vit": ViTImageProcessorPil(size=SQUARE),
    "siglip": SiglipImageProcessorPil(size={"height": 40, "width": 24}),
    "beit": BeitImageProcessorPil(size={"height": 36, "width": 36}, crop_size=SQUARE, do_center_crop=True),
    "convnext": ConvNextImageProcessorPil(size={"shortest_edge": 32}),
    "convnext-large": ConvNextImageProcessorPil(size={"shortest_edge": 384}, crop_pct=0.875),
    "no-norm": ViTImageProcessorPil(size=SQUARE, do_normalize=False, resample=3),
    "scaled": ViTImageProcessorPil(size=SQUARE, rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3),
    "unscaled": ViTImageProcessorPil(size=SQUARE, do_rescale=False, image_mean=[120.0] * 3, image_std=[50.0] * 3),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(60, 48), (48, 66), (33, 32), (20, 26)], ids=str)
def test_the_pixels_are_those_of_the_processor(name: str, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    processor = PROCESSORS[name]
    transform = transform_of(processor.to_dict(), "org/name", None)
    found = normalise(Pixels(transform)(image)[None], transform)
    expected = processor(image, return_tensors="pt")["pixel_values"]
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_every_pair_of_crop_and_edge_is_resized_to_the_edge() -> None:
    for edge in range(160, 300):
        for crop in range(128, edge + 1, 8):
            settings = CLIPImageProcessorPil(size={"shortest_edge": edge}, crop_size=crop).to_dict()
            transform = transform_of(settings, "org/name", None)
            assert transform.crop_pct is not None and int(crop / transform.crop_pct) == edge


def test_an_image_size_keeps_the_part_that_a_crop_keeps() -> None:
    settings = PROCESSORS["dinov2"].to_dict()
    own, other = (transform_of(settings, "org/name", size) for size in (None, (64, 48)))
    assert (own.input_size, own.crop_mode) == ((32, 32), "center")
    assert other == Transform((64, 48), own.interpolation, own.crop_pct, own.crop_mode, own.mean, own.std)
    no_crop = settings | {"do_center_crop": False}
    assert transform_of(no_crop, "org/name", (64, 48)).crop_mode == "center"
    with pytest.raises(
        InputError, match=r"'org/name' resizes to \{'shortest_edge': 36\} and crops to nothing, so its i"
    ):
        transform_of(no_crop, "org/name", None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_pad": True}, "'org/name' has do_pad, which is not supported; save it with"),
        ({"do_flip_channel_order": True}, "has do_flip_channel_order, which is"),
        ({"do_resize": False}, "does not resize; save it with other settings in a folder, and name transformers:local"),
        (
            {"size": {"longest_edge": 32}},
            r"resizes to \{'longest_edge': 32\} and crops to nothing, so its images have no",
        ),
        (
            {"size": {"shortest_edge": 9}, "crop_size": {"height": 8, "width": 6}, "do_center_crop": True},
            "no fixed size",
        ),
    ],
    ids=str,
)
def test_steps_that_no_transform_has_are_refused(changes: dict[str, Any], message: str) -> None:
    settings = transformers.ViTImageProcessor(size=SQUARE).to_dict() | changes
    with pytest.raises(InputError, match=message):
        transform_of(settings, "org/name", None)
