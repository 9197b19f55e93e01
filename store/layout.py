"""Names, shapes and the block rule of a store: both formats and both stages agree on them."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError, unknown_name

FORMAT_VERSION = 1
PATCH, PREFIX, MEAN, EMBEDDING = "patch", "prefix", "mean", "embedding"
POOLED = (MEAN, EMBEDDING)
"""Arrays of one vector per image, never rounded: the mean of every layer; of the last one the embedding, if any."""
SCALE, CHANNELS = "_scale", "_channels"
"""Endings of the arrays that belong to int8 tokens: one scale per token; mean and deviation of each channel."""

MIN_BLOCKS = 8
"""A split has at least this many blocks, if it has the images: shuffling permutes blocks."""

ROW_MULTIPLE = 64
"""Large blocks hold a multiple of this many images, so that common batch sizes fill them without padding."""


@dataclass(frozen=True)
class LayerShape:
    """The tokens that one layer yields for one image.

    Attributes:
        grid: (height, width) of the patch tokens.
        dim: channels of a token.
        n_prefix: class and register tokens.
        embedding: channels of the backbone's own embedding of the image, kept with its last layer; 0 if there is none.
    """

    grid: tuple[int, int]
    dim: int
    n_prefix: int
    embedding: int = 0

    @property
    def n_patches(self) -> int:
        """Patch tokens of one image."""
        return self.grid[0] * self.grid[1]

    def row_shape(self, kind: str) -> tuple[int, ...]:
        """Shape of one image's row in the array `kind`."""
        if kind in POOLED:
            return (self.dim if kind == MEAN else self.embedding,)
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


def parse_layers(spec: str, stored: Sequence[int], depth: int) -> list[int]:
    """Read "all", "last4" or "0,5,-1" into stored layers; negative indices count from the backbone's end.

    Raises:
        InputError: not of that form, or a layer that is not stored.
    """
    if spec == "all":
        return list(stored)
    if spec.startswith("last") and spec[4:].isdigit():
        if not 1 <= int(spec[4:]) <= len(stored):
            raise InputError(f"layers {spec!r}: the store has {len(stored)} layers")
        return list(stored)[-int(spec[4:]) :]
    try:
        wanted = [int(part) for part in spec.split(",")]
    except ValueError:
        raise InputError(f"layers {spec!r}: expected all, lastN, or indices such as 0,5,-1") from None
    layers = [layer + depth if layer < 0 else layer for layer in wanted]
    for asked, layer in zip(wanted, layers, strict=True):
        if layer not in stored:
            raise unknown_name("layer of the store", str(asked), map(str, stored))
    return sorted(set(layers))


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
