"""Transforms: an image of any kind in, the pixels that the backbone sees out.

Pillow decodes. It also resamples, which takes most of the time. Under `--decode fast` torch resamples uint8 instead, to
pixels at most two grey levels apart.

Workers deliver uint8 pixels, a quarter of the bytes of float32; scaling and normalisation happen on the
device, as ToTensor and Normalize would do them.

View 0 of an image is the evaluation transform. Each view from 1 on is one fixed draw of a random crop,
resized, and of a flip: a function of (seed, image, view) alone, whichever process makes it and when.
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
        crop_pct: part of the resized image's side that is kept, or None to keep all of it.
        crop_mode: timm's "center", "squash" or "border"; "none" resizes only if sizes differ.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        upright: whether images are first turned as the orientation in their EXIF says.
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


def decoded_as(decode: str, transform: Transform) -> Transform:
    """Return a transform with another choice of decoding.

    Raises:
        InputError: fast decoding has no such resampling or crop.
    """
    knows = transform.interpolation in RESAMPLED_FAST and transform.crop_mode != BORDER
    if decode == FAST and not knows:
        raise InputError(
            f"fast decoding asked for, and the backbone's images are resampled {transform.interpolation}, with crop "
            f"mode {transform.crop_mode}; it knows {' and '.join(RESAMPLED_FAST)}, and no {BORDER}: give --decode exact"
        )
    return replace(transform, decode=decode)


class Pixels:
    """Turns PIL images into uint8 pixels of the transform's size. Made once in each worker's dataset."""

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
    """Return a step that resamples uint8 tensors as they are: timm's would compute in float32."""

    def resize(image: Tensor) -> Tensor:
        keeps_ratio = isinstance(step, ResizeKeepRatio)
        size = ResizeKeepRatio.get_params(image, step.size, step.longest) if keeps_ratio else step.size
        resized: Tensor = TF.resize(image, size, step.interpolation, antialias=True)
        return resized

    changes_size = isinstance(step, v1.Resize | v2.Resize | ResizeKeepRatio)
    return resize if changes_size else cast(Callable[[Any], Any], step)


def to_tensor(image: Image.Image) -> Tensor:
    """Return (3, height, width) uint8 in channels_last format of an RGB image."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1)


class RandomCrops:
    """Turns PIL images into uint8 pixels of one of their random views, resampled as view 0 is."""

    def __init__(self, transform: Transform, augmentation: Augmentation) -> None:
        self._size, self._augmentation = list(transform.input_size), augmentation
        self._interpolation = str_to_interp_mode(transform.interpolation)
        self._is_fast = transform.decode == FAST

    def __call__(self, image: Image.Image, key: str, view: int) -> Tensor:
        """Return (3, height, width) uint8 of the view of the image that is called `key`."""
        crop = draw_crop(image.height, image.width, key, view, self._augmentation)
        cropped = TF.crop(to_rgb(image), *crop[:4])
        if self._is_fast:
            cropped = to_tensor(cropped)
        resized = TF.resize(cropped, self._size, self._interpolation, antialias=True)
        pixels: Tensor = resized if self._is_fast else TF.pil_to_tensor(resized)
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
    return image if image.mode == "RGB" else image.convert("RGB")


def normalise(pixels: Tensor, transform: Transform) -> Tensor:
    """Scale (B, 3, H, W) uint8 pixels to [0, 1], subtract the mean, divide by the standard deviation (float32)."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device).view(1, -1, 1, 1)
        for values in (transform.mean, transform.std)
    )
    return pixels.contiguous().float().div_(255).sub_(mean).div_(std)  # in place: a third of the memory
