"""Transforms: an image of any kind in, the pixels that the backbone sees out.

Workers deliver uint8 pixels, a quarter of the bytes of float32; scaling and normalisation happen on the
device, as ToTensor and Normalize would do them.

View 0 of an image is the evaluation transform. Each view from 1 on is one fixed draw of a random crop,
resized, and of a flip: a function of (seed, image, view) alone, whichever process makes it and when.
"""

import math
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from timm.data.transforms import str_to_interp_mode
from timm.data.transforms_factory import transforms_imagenet_eval
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF
from xxhash import xxh3_64_intdigest

N_TRIES = 10


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
        upright: whether images are first turned as the orientation in their EXIF says.
    """

    input_size: tuple[int, int]
    interpolation: str
    crop_pct: float | None
    crop_mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    upright: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, but for defaults: older stores have no such fields."""
        defaults = {each.name: each.default for each in fields(self) if each.default is not MISSING}
        return {name: value for name, value in asdict(self).items() if name not in defaults or value != defaults[name]}


@dataclass(frozen=True)
class Augmentation:
    """How views from 1 on are drawn.

    Attributes:
        scale: (smallest, largest) part of the image's area that a crop takes.
        ratio: (smallest, largest) width over height of a crop.
        seed: of all draws.
        flip: chance that a crop is flipped left to right.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float]
    seed: int
    flip: float = 0.5

    def to_json(self) -> dict[str, Any]:
        """Return the fields and the kind as JSON values."""
        scale, ratio = list(self.scale), list(self.ratio)
        return {"kind": "random_resized_crop", "scale": scale, "ratio": ratio, "flip": self.flip, "seed": self.seed}


class Crop(NamedTuple):
    """A box of an image in pixels, and whether it is flipped."""

    top: int
    left: int
    height: int
    width: int
    flipped: bool


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


class RandomCrops:
    """Turns PIL images into uint8 pixels of one of their random views, resampled as view 0 is."""

    def __init__(self, transform: Transform, augmentation: Augmentation) -> None:
        self._size, self._augmentation = transform.input_size, augmentation
        self._interpolation = str_to_interp_mode(transform.interpolation)

    def __call__(self, image: Image.Image, key: str, view: int) -> Tensor:
        """Return (3, height, width) uint8 of the view of the image that is called `key`."""
        crop = draw_crop(image.height, image.width, key, view, self._augmentation)
        box = list(crop[:4])
        resized = TF.resized_crop(to_rgb(image), *box, list(self._size), self._interpolation, antialias=True)
        pixels: Tensor = TF.pil_to_tensor(resized)
        return pixels.flip(-1) if crop.flipped else pixels


def draw_crop(height: int, width: int, key: str, view: int, augmentation: Augmentation) -> Crop:
    """Draw the crop of one view, as torchvision's RandomResizedCrop does.

    A part of the area and the logarithm of a ratio are uniform; a box that is too large is drawn again. After ten
    of those, it is the largest central box of a ratio allowed. Only raw bits of PCG64 are drawn: numpy promises
    that they stay the same.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        key: the image's id.
        view: from 1 on.
        augmentation: limits of the draw, and its seed.

    Source: torchvision, `transforms.RandomResizedCrop.get_params`; C. Szegedy et al., "Going deeper with
    convolutions", CVPR 2015, section 6.
    """
    bits = np.random.PCG64(np.random.SeedSequence(xxh3_64_intdigest(key.encode()), spawn_key=(augmentation.seed, view)))
    flipped = _uniform(bits, 0.0, 1.0) < augmentation.flip
    log_ratio = [math.log(limit) for limit in augmentation.ratio]
    for _ in range(N_TRIES):
        area = height * width * _uniform(bits, *augmentation.scale)
        ratio = math.exp(_uniform(bits, *log_ratio))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return Crop(_below(bits, height - h + 1), _below(bits, width - w + 1), h, w, flipped)
    narrowest, widest = augmentation.ratio
    w = min(width, max(1, round(height * widest)))
    h = min(height, max(1, round(width / narrowest)))
    return Crop((height - h) // 2, (width - w) // 2, h, w, flipped)


def _uniform(bits: np.random.PCG64, low: float, high: float) -> float:
    """Draw a number from [low, high): 53 bits fill a float64."""
    return low + (high - low) * (int(bits.random_raw()) >> 11) * 2.0**-53


def _below(bits: np.random.PCG64, n: int) -> int:
    """Draw an integer from [0, n)."""
    return int(bits.random_raw()) * n >> 64


def turned_upright(image: Image.Image) -> Image.Image:
    """Turn an image as the orientation in its EXIF says, if it says so."""
    return ImageOps.exif_transpose(image) if ExifTags.Base.Orientation in image.getexif() else image


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB; 16-bit grey keeps its upper byte, where Pillow would clip at 255.

    Raises:
        ValueError: a mode whose range of values is not known.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode!r}: 32-bit values of unknown range; save it as 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")  # the same pixels; straight to RGB, Pillow warns
    return image.convert("RGB")


def normalise(pixels: Tensor, transform: Transform) -> Tensor:
    """Scale (B, 3, H, W) uint8 pixels to [0, 1], subtract the mean, divide by the standard deviation (float32)."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device).view(1, -1, 1, 1)
        for values in (transform.mean, transform.std)
    )
    return pixels.float().div_(255).sub_(mean).div_(std)  # in place: a third of the memory
