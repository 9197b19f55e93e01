"""Names, shapes and the block rule of a store: what both formats and both stages agree on."""

from dataclasses import dataclass

FORMAT_VERSION = 1
PATCH, PREFIX, MEAN = "patch", "prefix", "mean"
SCALE, CHANNELS = "_scale", "_channels"
"""Endings of the arrays that belong to int8 tokens: one scale a token; mean and deviation of each channel."""

MIN_BLOCKS = 8
"""A split has at least this many blocks, if it has the images: shuffling permutes blocks."""

ROW_MULTIPLE = 64
"""Large blocks hold a multiple of this many images, so that common batch sizes fill them without padding."""


@dataclass(frozen=True)
class LayerShape:
    """What one layer yields for one image.

    Attributes:
        grid: (height, width) of the patch tokens.
        dim: channels of a token.
        n_prefix: class and register tokens.
    """

    grid: tuple[int, int]
    dim: int
    n_prefix: int

    @property
    def n_patches(self) -> int:
        """Patch tokens of one image."""
        return self.grid[0] * self.grid[1]

    def row_shape(self, kind: str) -> tuple[int, ...]:
        """Shape of one image's row in the array `kind`."""
        if kind == MEAN:
            return (self.dim,)
        n_tokens = {PATCH: self.n_patches, PREFIX: self.n_prefix}[kind.removesuffix(SCALE)]
        return (n_tokens,) if kind.endswith(SCALE) else (n_tokens, self.dim)


def layer_name(layer: int) -> str:
    """Name of a layer's group: 5 -> "layer_05"."""
    return f"layer_{layer:02d}"


def array_name(split: str, layer: str, kind: str) -> str:
    """Name of an array: ("train", "layer_05", "patch") -> "train/layer_05/patch"."""
    return f"{split}/{layer}/{kind}"


def layer_index(name: str) -> int:
    """Index of a layer from its group's name: "layer_05" -> 5."""
    return int(name.removeprefix("layer_"))


def block_rows(n_images: int, image_bytes: int, block_bytes: int) -> int:
    """Return how many images a block holds.

    As many as fit `block_bytes`, but few enough for `MIN_BLOCKS` blocks, rounded down to a multiple of
    `ROW_MULTIPLE` where that leaves anything.

    Args:
        n_images: images in the split.
        image_bytes: bytes of the largest layer's patch tokens of one image.
        block_bytes: size aimed at for one block file.
    """
    rows = max(1, min(block_bytes // image_bytes, n_images // MIN_BLOCKS))
    return rows if rows < ROW_MULTIPLE else rows - rows % ROW_MULTIPLE
