"""Pictures of attention: the tiles' pixels lie where the patches are, and the bars are the table's numbers."""

from collections.abc import Iterator

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from tokenprobe.probe.report.figures.attention import (
    GAP,
    PART_COLOURS,
    TILE,
    Row,
    draw_mosaic,
    heat_tiles,
    image_tiles,
    part_tiles,
)
from tokenprobe.probe.report.figures.canvas import styled

GRID = (2, 4)
"""Two rows of four patches: tiles are twice as wide as high."""


@pytest.fixture(autouse=True)
def paper() -> Iterator[None]:
    with styled("paper"):
        yield


def patches(tile: np.ndarray) -> np.ndarray:
    """Return the mean colour of each patch, (8, 3)."""
    height, width = tile.shape[0] // 2, tile.shape[1] // 4
    return tile.reshape(2, height, 4, width, 3).mean((1, 3)).reshape(8, 3)


@pytest.mark.parametrize("place", range(8))
def test_a_map_is_brightest_on_its_patch_of_the_image(place: int) -> None:
    pixels = np.zeros((1, 8, 16, 3), dtype=np.uint8)
    row, column = divmod(place, 4)
    pixels[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 255
    images = image_tiles(pixels, 1, GRID)
    assert images.shape == (1, TILE // 2, TILE, 3)
    assert patches(images[0]).sum(1).argmax() == place
    dark = image_tiles(np.zeros_like(pixels), 1, GRID)
    heat = patches(heat_tiles(dark, np.eye(8)[[place]], GRID)[0])
    assert heat.sum(1).argmax() == place
    assert np.delete(heat.sum(1), place).max() < 0.75 * heat.sum(1)[place]


def test_a_part_has_one_colour_on_every_image() -> None:
    images = image_tiles(np.random.default_rng(0).integers(0, 256, (2, 8, 16, 3)).astype(np.uint8), 2, GRID)
    parts = np.zeros((2, 2, 8))
    parts[0, 0, 1] = parts[0, 1, 6] = parts[1, 0, 7] = parts[1, 1, 2] = 0.5
    tiles = part_tiles(images, parts, GRID)
    for image, part, place in ((0, 0, 1), (0, 1, 6), (1, 0, 7), (1, 1, 2)):
        distances = [np.abs(patches(tiles[image])[place] - to_rgb(colour)).sum() for colour in PART_COLOURS]
        assert int(np.argmin(distances)) == part and distances[part] < 0.25


def test_images_that_are_gone_are_plain_and_of_the_shape_of_the_grid() -> None:
    blank = image_tiles(None, 3, GRID)
    assert blank.shape == (3, TILE // 2, TILE, 3) and len(np.unique(blank)) == 1


def test_a_mosaic_has_a_row_per_map_and_a_column_per_image() -> None:
    tiles = np.random.default_rng(0).random((3, 10, 20, 3))
    labels = ["cat", "a class of a long name", "\x1b[2J"]
    [axes] = draw_mosaic([Row("image", tiles), Row("map 1", 1 - tiles, "#56B4E9")], labels).axes
    sheet = np.asarray(axes.images[0].get_array())
    for row, column in np.ndindex(2, 3):
        top, left = row * (10 + GAP), column * (20 + GAP)
        assert (sheet[top : top + 10, left : left + 20] == (1 - tiles if row else tiles)[column]).all()
        assert axes.get_yticks()[row] == top + 5 and axes.get_xticks()[column] == left + 10
    assert [text.get_text() for text in axes.get_yticklabels()] == ["image", "map 1"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["cat", "a class of…", r"\x1b[2J"]
