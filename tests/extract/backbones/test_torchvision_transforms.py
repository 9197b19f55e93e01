"""Transforms of torchvision, read as those of a store: the same pixels as torchvision's own, and refusals."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms._presets import ImageClassification

from tokenprobe.errors import InputError
from tokenprobe.extract.backbones.torchvision_transforms import read_transform
from tokenprobe.extract.views import Pixels, normalise

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
FLOAT = v2.ToDtype(torch.float32, scale=True)
BICUBIC = InterpolationMode.BICUBIC
NORMALIZE = v1.Normalize(MEAN, STD)
READ: list[tuple[Any, tuple[int, int] | None, tuple[int, int]]] = [
    # the transform, the size that is given with it, the size of an image
    (v1.Compose([v1.Resize(256), v1.CenterCrop(224), v1.ToTensor(), NORMALIZE]), None, (300, 280)),
    *[(v1.Compose([v1.Resize(n), v1.CenterCrop(14), v1.ToTensor()]), None, (60, 77)) for n in range(14, 50)],
    (v1.Compose([v1.Resize((20, 30), BICUBIC), v1.ToTensor(), NORMALIZE]), None, (50, 40)),
    (v1.Compose([v1.Resize(24), v1.ToTensor()]), None, (40, 40)),
    (v1.Compose([v1.ToTensor(), NORMALIZE]), (18, 26), (18, 26)),
    (v2.Compose([v2.RGB(), v2.Resize(40, BICUBIC), v2.CenterCrop(32), v2.ToImage(), FLOAT]), None, (50, 70)),
    (v2.Compose([v2.Resize(40), v2.PILToTensor(), FLOAT, v2.Normalize(MEAN, STD)]), None, (50, 50)),
    (ImageClassification(crop_size=28, resize_size=32, mean=MEAN, std=STD), None, (70, 50)),
    (v1.ToTensor(), (8, 8), (8, 8)),
]


@pytest.mark.parametrize(("given", "size", "of_image"), READ)
def test_the_pixels_are_torchvisions(given: Any, size: tuple[int, int] | None, of_image: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*of_image, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    transform = read_transform(given, size)
    found = normalise(Pixels(transform)(image)[None], transform)[0]
    expected = given(image)
    assert found.shape[1:] == transform.input_size
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "given",
    [
        v1.Compose([v1.RandomCrop(8), v1.ToTensor()]),
        v1.Compose([v1.CenterCrop(8), v1.Resize(8)]),
        v1.Compose([v1.Resize(8), v1.Resize(9)]),
        v1.Compose([v1.Resize(8), v2.ToDtype(torch.float32)]),
        v1.Compose([NORMALIZE, v1.Resize(8)]),
        lambda image: image,
    ],
)
def test_other_steps_are_refused(given: Any) -> None:
    with pytest.raises(
        InputError, match=r"^transform step .+ cannot be read; expected at most one Resize, CenterCrop "
    ):
        read_transform(given, None)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (v1.ToTensor(), None),
        (v1.CenterCrop(8), None),
        (v1.CenterCrop(8), (8, 8)),
        (v1.Resize(8), (8, 8)),
        (v1.Resize(8, max_size=9), None),
        (v1.Compose([v1.Resize(8), v1.CenterCrop(9)]), None),
        (v1.Compose([v1.Resize(8), v1.CenterCrop((8, 6))]), None),
        (v1.Compose([v1.Resize((8, 8)), v1.CenterCrop(6)]), None),
    ],
)
def test_outputs_without_a_known_size_are_refused(given: Any, size: tuple[int, int] | None) -> None:
    with pytest.raises(
        InputError, match=r"^transform .+ has no form that a store knows: an image_size and no other si"
    ):
        read_transform(given, size)
