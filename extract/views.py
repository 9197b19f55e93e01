"""Transforms: they turn an image of any kind into the pixels that the backbone sees.

Pillow decodes. It also resamples, which takes most of the time. Under `--decode fast` torch resamples uint8 instead,
with pixels at most two grey levels apart.

Workers deliver uint8 pixels, a quarter of the bytes of float32. The device scales and normalises them, as torchvision's
ToTensor and Normalize do.

View 0 of an image is the evaluation transform. Each view from 1 on is a random crop, resized and perhaps flipped. Seed,
image and view alone determine it, in any process and at any time.
"""

import math
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from timm.data.transforms import ResizeKeepRatio, str_to_interp_mode
from timm.data.transforms_factory import transforms_imagenet_eval
from torch import Tensor
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF
from xxhash import xxh3_64_intdigest

from ..errors import InputError

N_TRIES = 10
EXACT, FAST = "exact", "fast"
RESAMPLED_FAST, BORDER = ("bilinear", "bicubic"), "border"


@dataclass(frozen=True)
class Transform:
    """The evaluation transform of a backbone.

    Attributes:
        input_size: (height, width) in pixels.
        interpolation: name of the resampling filter, such as "bicubic".
        crop_pct: part of the resized image's side that the crop keeps, or None to keep all of it.
        crop_mode: timm's "center", "squash" or "border"; "none" resizes only if sizes differ.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        upright: whether images are first turned upright by their EXIF orientation.
        decode: "exact" (resampled by Pillow) or "fast" (resampled by torch, as uint8).
    """

    input_size: tuple[int, int]
    interpolation: str
    crop_pct: float | None
    crop_mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    upright: bool = False
    decode: str = EXACT

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, without optional ones at their default: older stores lack these fields."""
        defaults = {each.name: each.default for each in fields(self) if each.default is not MISSING}
        return {name: value for name, value in asdict(self).items() if name not in defaults or value != defaults[name]}


@dataclass(frozen=True)
class Augmentation:
    """Settings of the random crops, views from 1 on.

    Attributes:
        scale: (smallest, largest) part of the image's area in a crop.
        ratio: (smallest, largest) width over height of a crop.
        seed: seed of all draws.
        flip: probability of a flip from left to right.
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


def decoded_as(decode: str, transform: Transform) -> Transform:
    """Return a transform with another choice of decoding.

    Raises:
        InputError: fast decoding does not support the resampling or the crop.
    """
    knows = transform.interpolation in RESAMPLED_FAST and transform.crop_mode != BORDER
    if decode == FAST and not knows:
        raise InputError(
            f"--decode fast supports {' and '.join(RESAMPLED_FAST)} resampling and no {BORDER} crops, but the backbone "
            f"wants {transform.interpolation} with crop mode {transform.crop_mode}; give --decode exact"
        )
    return replace(transform, decode=decode)


class Pixels:
    """Turns PIL images into uint8 pixels of the transform's size. Each worker's dataset holds one."""

    def __init__(self, transform: Transform) -> None:
        size, mode = transform.input_size, transform.interpolation
        if transform.crop_mode == "none":
            steps = [v2.Resize(size, interpolation=str_to_interp_mode(mode), antialias=True)]
        else:
            steps = transforms_imagenet_eval(
                img_size=size,
                crop_pct=transform.crop_pct,
                crop_mode=transform.crop_mode,
                interpolation=mode,
                mean=transform.mean,
                normalize=False,
            ).transforms[:-1]  # the last one makes a tensor
        is_fast = transform.decode == FAST
        steps = [to_tensor, *map(_on_uint8, steps)] if is_fast else [*steps, v2.PILToTensor()]
        self._steps = v2.Compose(steps)

    def __call__(self, image: Image.Image) -> Tensor:
        """Return (3, height, width) uint8."""
        pixels: Tensor = self._steps(to_rgb(image))
        return pixels


def _on_uint8(step: Any) -> Callable[[Any], Any]:
    """Return a step that resamples uint8 tensors directly; timm's steps would compute in float32."""

    def resize(image: Tensor) -> Tensor:
        keeps_ratio = isinstance(step, ResizeKeepRatio)
        size = ResizeKeepRatio.get_params(image, step.size, step.longest) if keeps_ratio else step.size
        resized: Tensor = TF.resize(image, size, step.interpolation, antialias=True)
        return resized

    changes_size = isinstance(step, v1.Resize | v2.Resize | ResizeKeepRatio)
    return resize if changes_size else cast(Callable[[Any], Any], step)


def to_tensor(image: Image.Image) -> Tensor:
    """Turn an RGB image into (3, height, width) uint8 in channels_last format."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1)


class RandomCrops:
    """Turns PIL images into uint8 pixels of one of their random views, with the resampling of view 0."""

    def __init__(self, transform: Transform, augmentation: Augmentation) -> None:
        self._size, self._augmentation = list(transform.input_size), augmentation
        self._interpolation = str_to_interp_mode(transform.interpolation)
        self._is_fast = transform.decode == FAST

    def __call__(self, image: Image.Image, key: str, view: int) -> Tensor:
        """Return (3, height, width) uint8: one view of the image with the id `key`."""
        crop = draw_crop(image.height, image.width, key, view, self._augmentation)
        cropped = TF.crop(to_rgb(image), *crop[:4])
        if self._is_fast:
            cropped = to_tensor(cropped)
        resized = TF.resize(cropped, self._size, self._interpolation, antialias=True)
        pixels: Tensor = resized if self._is_fast else TF.pil_to_tensor(resized)
        return pixels.flip(-1) if crop.flipped else pixels


def draw_crop(height: int, width: int, key: str, view: int, augmentation: Augmentation) -> Crop:
    """Draw the crop of one view, as torchvision's RandomResizedCrop does.

    The part of the area and the logarithm of the ratio are uniform. A box that is too large is drawn again. After ten
    such boxes, the crop is the largest central box of an allowed ratio. All draws use raw bits of PCG64, which numpy
    promises not to change.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
        key: the image's id.
        view: number of the view, from 1 on.
        augmentation: limits and seed of the draw.

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
    """Turn an image upright by the orientation in its EXIF, if there is one."""
    return ImageOps.exif_transpose(image) if ExifTags.Base.Orientation in image.getexif() else image


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB. 16-bit grey keeps its upper byte; Pillow would clip it at 255.

    Raises:
        ValueError: the range of the mode's values is unknown.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode!r} has 32-bit values of unknown range; save the image with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")  # same pixels; Pillow warns when it converts directly
    return image if image.mode == "RGB" else image.convert("RGB")


def normalise(pixels: Tensor, transform: Transform) -> Tensor:
    """Scale (B, 3, H, W) uint8 pixels to [0, 1], subtract the mean, divide by the standard deviation (float32)."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device).view(1, -1, 1, 1)
        for values in (transform.mean, transform.std)
    )
    return pixels.contiguous().float().div_(255).sub_(mean).div_(std)  # in place: a third of the memory
