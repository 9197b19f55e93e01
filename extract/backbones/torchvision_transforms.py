"""Evaluation transforms of torchvision, read as the transform of a store.

A store decodes images in other processes and normalises them on the device. So it needs a transform's settings: the
size, the resize, the central crop, mean and deviation.
"""

from collections.abc import Sequence
from math import floor
from typing import Any

import torch
from timm.data.transforms import MaybePILToTensor, MaybeToTensor
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms._presets import ImageClassification

from ...errors import InputError
from ..views import Transform

STEPS: Sequence[tuple[str, tuple[type, ...]]] = (
    ("resize", (v1.Resize, v2.Resize)),
    ("crop", (v1.CenterCrop, v2.CenterCrop)),
    ("normalize", (v1.Normalize, v2.Normalize)),
)
"""Steps with settings, in the order that they must have."""
PLAIN = (
    *(v1.ToTensor, v1.PILToTensor, v1.ConvertImageDtype, MaybeToTensor, MaybePILToTensor),
    *(v2.ToImage, v2.PILToTensor, v2.ToPureTensor, v2.RGB, v2.ToDtype),
)
"""Steps that a store takes by itself: images become RGB, and pixels numbers in [0, 1]."""


def read_transform(given: Any, size: tuple[int, int] | None) -> Transform:
    """Read a transform of torchvision: a Compose of known steps, or a preset such as `weights.transforms()`.

    Args:
        given: the transform. At most one Resize, one CenterCrop and one Normalize, in this order.
        size: (height, width) in pixels of its outputs, if it does not change sizes, else None.

    Raises:
        InputError: it has other steps, or its outputs have no fixed size.
    """
    if isinstance(given, ImageClassification):
        given = v1.Compose(
            [
                v1.Resize(given.resize_size, given.interpolation),
                v1.CenterCrop(given.crop_size),
                v1.Normalize(given.mean, given.std),
            ]
        )
    found = _steps_of(given)
    resize, crop, normalize = (found.get(name) for name, _ in STEPS)
    mean, std = ((0.0,) * 3, (1.0,) * 3) if normalize is None else (_three(normalize.mean), _three(normalize.std))
    sized = _sides(size, resize, crop)
    if sized is None:
        raise InputError(
            f"transform {_words(given)} has no form that a store knows: an image_size and no other size; Resize(s) and "
            "CenterCrop(c), c at most s; or Resize((height, width)); change it, or give image_size, mean and std"
        )
    interpolation = "bicubic" if resize is None else InterpolationMode(resize.interpolation).value
    return Transform(sized[0], interpolation, sized[1], sized[2], mean, std)


def _steps_of(given: Any) -> dict[str, Any]:
    """Return the steps with settings, by name."""
    found: dict[str, Any] = {}
    order = [name for name, _ in STEPS]
    for step in getattr(given, "transforms", [given]):
        name = next((name for name, kinds in STEPS if isinstance(step, kinds)), None)
        repeated = name is not None and any(order.index(name) <= order.index(other) for other in found)
        unscaled = isinstance(step, v2.ToDtype) and step.dtype != torch.uint8 and not step.scale
        if repeated or unscaled or (name is None and not isinstance(step, PLAIN)):
            raise InputError(
                f"transform step {_words(step)} cannot be read; expected at most one Resize, CenterCrop and Normalize, "
                "in this order, and steps such as ToTensor that scale pixels to [0, 1]"
            )
        if name is not None:
            found[name] = step
    return found


def _sides(size: tuple[int, int] | None, resize: Any, crop: Any) -> tuple[tuple[int, int], float | None, str] | None:
    """Return input size, crop_pct and crop_mode of a `Transform`, or None if no such values give the same images."""
    if resize is None:
        return (size, None, "none") if size and crop is None else None
    resized = [resize.size] if isinstance(resize.size, int) else list(resize.size)
    if size or resize.max_size is not None:
        return None
    if crop is None:
        return ((resized[0], resized[-1]), *((None, "none") if len(resized) == 2 else (1.0, "center")))
    height, width = crop.size
    if len(resized) == 2 or height != width or height > resized[0]:
        return None
    part = height / resized[0]
    if floor(height / part) != resized[0]:
        part = height / (resized[0] + 0.5)  # timm rounds down
    return (height, width), part, "center"


def _three(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in (list(values) * 3)[:3])


def _words(step: Any) -> str:
    return " ".join(repr(step).split())
