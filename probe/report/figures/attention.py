"""Pictures of attention: maps over images, and parts.

A picture of maps is one mosaic of tiles: a column per image, a row per map. A map is drawn on its image, in brightness
and colour from none to its own largest weight.
"""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ....runtime.text import printable
from .canvas import make_panels

Array = NDArray[np.float64]
PART_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7")
"""Okabe and Ito's, which colour-blind readers can tell apart, and grey readers with the names of rows."""
HEAT = "inferno"
TILE, GAP = 112, 6
"""Longer side of a tile and the space between tiles, in pixels."""
INCHES = 0.52
"""Width of a tile on paper."""
BLANK = 0.35
"""Grey of an image that cannot be read again."""
LONGEST_LABEL = 11


class Row(NamedTuple):
    """One row of a picture.

    Attributes:
        name: its label.
        tiles: (B, h, w, 3) in [0, 1], one per image.
        colour: of the label.
    """

    name: str
    tiles: Array
    colour: str = "black"


def image_tiles(pixels: NDArray[np.uint8] | None, n_images: int, grid: tuple[int, int]) -> Array:
    """Return images (B, h, w, 3) in [0, 1], resized to tiles; plain grey if there are no pixels (B, H, W, 3).

    Args:
        pixels: uint8.
        n_images: B.
        grid: (height, width) of the patches, which a tile without pixels has the shape of.
    """
    shape = grid if pixels is None else pixels.shape[1:3]
    height, width = (max(1, round(TILE * side / max(shape))) for side in shape)
    if pixels is None:
        return np.full((n_images, height, width, 3), BLANK)
    resized = [Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC) for image in pixels]
    return np.stack([np.asarray(image) for image in resized]) / 255


def heat_tiles(images: Array, maps: Array, grid: tuple[int, int]) -> Array:
    """Return maps (B, N) over images (B, h, w, 3): the brighter, the more weight."""
    found = []
    for image, weights in zip(images, maps, strict=True):
        strength = _enlarged(weights / max(weights.max(), 1e-12), grid, image.shape, Image.Resampling.BILINEAR)
        heat = mpl.colormaps[HEAT](strength)[..., :3]
        found.append(0.35 * _grey(image) + 0.65 * heat)
    return np.clip(np.stack(found), 0, 1)


def part_tiles(images: Array, parts_BKN: Array, grid: tuple[int, int]) -> Array:
    """Return images (B, h, w, 3) whose patches have the colour of the part with the most weight there.

    The more weight, against the patch of the image with the most, the stronger is the colour.
    """
    found = []
    for image, parts in zip(images, parts_BKN, strict=True):
        largest = parts.max(0) / max(parts.max(), 1e-12)
        strength = 0.9 * _enlarged(np.sqrt(largest), grid, image.shape, Image.Resampling.NEAREST)[..., None]
        colours = np.array([to_rgb(PART_COLOURS[part]) for part in range(len(parts))])[parts.argmax(0)]
        layer = [_enlarged(colours[:, c], grid, image.shape, Image.Resampling.NEAREST) for c in range(3)]
        found.append((1 - strength) * 0.5 * _grey(image) + strength * np.stack(layer, axis=-1))
    return np.clip(np.stack(found), 0, 1)


def draw_mosaic(rows: Sequence[Row], labels: Sequence[str]) -> Figure:
    """Draw rows of tiles, with a label over each column."""
    _, height, width, _ = rows[0].tiles.shape
    n_images = len(rows[0].tiles)
    step_y, step_x = height + GAP, width + GAP
    sheet = np.ones((len(rows) * step_y - GAP, n_images * step_x - GAP, 3))
    for number, row in enumerate(rows):
        for column, tile in enumerate(row.tiles):
            sheet[number * step_y :, column * step_x :][:height, :width] = tile
    scale = INCHES / TILE
    figure, [axes] = make_panels([""])
    size = sheet.shape[1] * scale + 1.0, sheet.shape[0] * scale + (0.5 if any(labels) else 0.1)
    figure.set_size_inches(*size)
    axes.imshow(sheet, interpolation="antialiased")
    axes.set_yticks([number * step_y + height / 2 for number in range(len(rows))], [row.name for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color(row.colour)
        label.set_fontweight("normal" if row.colour == "black" else "bold")
    axes.set_xticks([column * step_x + width / 2 for column in range(n_images)], list(map(cut_label, labels)))
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    for label in axes.get_xticklabels():
        label.set_rotation(35)
        label.set_horizontalalignment("left")
        label.set_rotation_mode("anchor")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return figure


def _grey(image: Array) -> Array:
    return np.repeat(image.mean(-1, keepdims=True), 3, axis=-1)


def _enlarged(values: Array, grid: tuple[int, int], shape: tuple[int, ...], how: Image.Resampling) -> Array:
    """Return values (N,) of the patches as pixels (h, w) of a tile."""
    small = Image.fromarray(values.reshape(grid).astype(np.float32))
    return np.asarray(small.resize((shape[1], shape[0]), how), dtype=np.float64)


def cut_label(label: str) -> str:
    """Return a label as it is shown: without control characters, and not too long."""
    shown = printable(label)
    return shown if len(shown) <= LONGEST_LABEL else f"{shown[: LONGEST_LABEL - 1]}…"
