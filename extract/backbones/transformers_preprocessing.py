"""The image processor of a Hugging Face model as a `Transform`."""

import math
from collections.abc import Mapping
from typing import Any

from PIL import Image

from ...errors import InputError
from ..views import Transform

OTHER_STEPS = ("do_pad", "do_flip_channel_order", "do_thumbnail", "do_align_long_axis", "rescale_offset")
"""Settings that change pixels in ways that no `Transform` has."""
SQUASHED_FROM = 384
"""ConvNeXt's processor squashes images from this side on, in pixels, and crops the centre below."""


def transform_of(settings: Mapping[str, Any], model: str, image_size: tuple[int, int] | None) -> Transform:
    """Turn the settings of an image processor into a `Transform`.

    Args:
        settings: the processor's `to_dict()`.
        model: name of the model, for messages.
        image_size: (height, width) in pixels, or None for the processor's own.

    Raises:
        InputError: the processor does something that a `Transform` does not.
    """
    others = [name for name in OTHER_STEPS if settings.get(name)]
    if others or not settings.get("do_resize"):
        raise InputError(
            f"the image processor of transformers model {model!r} "
            + (f"has {others[0]}, which is not supported" if others else "does not resize")
            + "; save it with other settings in a folder, and name transformers:local-dir:FOLDER"
        )
    own_size, crop_pct, mode = _geometry(settings, model, image_size)
    # Pixels are p · factor before the normalisation: the same as p / 255 with mean and deviation scaled.
    unit = 255 * float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 255.0
    normalises = settings.get("do_normalize", True)
    mean, std = (settings["image_mean"], settings["image_std"]) if normalises else ([0.0] * 3, [1.0] * 3)
    return Transform(
        input_size=image_size or own_size,
        interpolation=Image.Resampling(settings["resample"]).name.lower(),
        crop_pct=crop_pct,
        crop_mode=mode,
        mean=tuple(_scaled(value, unit) for value in mean),
        std=tuple(_scaled(value, unit) for value in std),
    )


def _geometry(
    settings: Mapping[str, Any], model: str, image_size: tuple[int, int] | None
) -> tuple[tuple[int, int], float, str]:
    """Return the size of the pixels, the part of the resized image that they are, and timm's crop mode."""
    resized, edge = _height_and_width(settings.get("size")), (settings.get("size") or {}).get("shortest_edge")
    crop = _height_and_width(settings.get("crop_size")) if settings.get("do_center_crop") else None
    if edge and settings.get("crop_pct"):
        squashes = edge >= SQUASHED_FROM
        return (edge, edge), 1.0 if squashes else settings["crop_pct"], "squash" if squashes else "center"
    if edge and image_size and crop is None:
        return image_size, 1.0, "center"
    if edge and crop and crop[0] == crop[1]:
        return crop, _part(crop[0], edge), "center"
    if resized and crop is None:
        return resized, 1.0, "squash"
    if resized and crop and resized[0] * crop[1] == resized[1] * crop[0]:
        return crop, _part(crop[0], resized[0]), "squash"
    raise InputError(
        f"the image processor of transformers model {model!r} resizes to {settings.get('size')} and crops to "
        f"{settings.get('crop_size') if settings.get('do_center_crop') else 'nothing'}, so its images have no fixed "
        "size; give --image-size, or save it with another size in a folder and name transformers:local-dir:FOLDER"
    )


def _height_and_width(size: Any) -> tuple[int, int] | None:
    height, width = ((size or {}).get(name) for name in ("height", "width"))
    return (height, width) if height and width else None


def _part(crop: int, resized: int) -> float:
    """Return the part of a side that a crop keeps, such that timm, which rounds down, finds the resized side again."""
    part = crop / resized
    return part if math.floor(crop / part) == resized else math.nextafter(part, 0)


def _scaled(value: float, unit: float) -> float:
    return float(value) if math.isclose(unit, 1.0) else float(value) / unit
