"""Transforms: an image of any kind in, the pixels that the backbone sees out.

Workers deliver uint8 pixels, a quarter of the bytes of float32; scaling and normalisation happen on the
device, as ToTensor and Normalize would do them.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import str_to_interp_mode
from timm.data.transforms_factory import transforms_imagenet_eval
from torch import Tensor
from torchvision.transforms import v2


@dataclass(frozen=True)
class Transform:
    """The evaluation transform of a backbone.

    Attributes:
        input_size: (height, width) in pixels.
        interpolation: name of the resampling filter, such as "bicubic".
        crop_pct: part of the resized image's side that is kept, or None to keep all of it.
        crop_mode: timm's "center", "squash" or "border"; "none" resizes only if sizes differ.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
    """

    input_size: tuple[int, int]
    interpolation: str
    crop_pct: float | None
    crop_mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


class Pixels:
    """Turns PIL images into uint8 pixels of the transform's size. Made once in each worker's dataset."""

    def __init__(self, transform: Transform) -> None:
        size, mode = transform.input_size, transform.interpolation
        if transform.crop_mode == "none":
            self._resize = v2.Compose(
                [v2.Resize(size, interpolation=str_to_interp_mode(mode), antialias=True), v2.PILToTensor()]
            )
        else:
            self._resize = transforms_imagenet_eval(
                img_size=size,
                crop_pct=transform.crop_pct,
                crop_mode=transform.crop_mode,
                interpolation=mode,
                mean=transform.mean,
                normalize=False,
            )

    def __call__(self, image: Image.Image) -> Tensor:
        """Return (3, height, width) uint8."""
        pixels: Tensor = self._resize(to_rgb(image))
        return pixels


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB; 16-bit grey keeps its upper byte, where Pillow would clip at 255.

    Raises:
        ValueError: a mode whose range of values is not known.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode!r}: 32-bit values of unknown range; save it as 8 or 16 bits")
    return image.convert("RGB")


def normalise(pixels: Tensor, transform: Transform) -> Tensor:
    """Scale (B, 3, H, W) uint8 pixels to [0, 1], subtract the mean, divide by the standard deviation (float32)."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device).view(1, -1, 1, 1)
        for values in (transform.mean, transform.std)
    )
    return (pixels.float() / 255 - mean) / std
