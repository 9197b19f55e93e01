"""Names, shapes and the block rule of a store: both formats and both stages agree on them."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError, unknown_name
from .checked import Count, Width

FORMAT_VERSION = 1
PATCH, PREFIX, MEAN, EMBEDDING = "patch", "prefix", "mean", "embedding"
POOLED = (MEAN, EMBEDDING)
"""Arrays of one vector per image, never rounded: the mean of every layer; of the last one the embedding, if any."""
SCALE, CHANNELS = "_scale", "_channels"
"""Endings of the arrays that belong to int8 tokens: one scale per token; mean and deviation of each channel."""

TEMPORARY = ".tmp"
"""Ending of a file that is being written."""

RESERVED = {"journal.jsonl", "journal.d", "zarr.json"}
"""Names at the top of a store that no split can have: they are its own."""
MAX_SPLIT_BYTES = 100
"""Bytes of the longest name of a split, in UTF-8: with what is added to it, it is a file name on every disk."""

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

    grid: tuple[Width, Width]
    dim: Width
    n_prefix: Count
    embedding: Count = 0

    @property
    def n_patches(self) -> int:
        """Patch tokens of one image."""
        return self.grid[0] * self.grid[1]

    def kinds(self, dtype: str) -> set[str]:
        """Return the arrays that can be kept of the layer in a store of a dtype."""
        tokens = {PATCH} | ({PREFIX} if self.n_prefix else set())
        scales = {kind + SCALE for kind in tokens} if dtype == "int8" else set()
        return tokens | scales | {MEAN} | ({EMBEDDING} if self.embedding else set())

    def row_shape(self, kind: str) -> tuple[int, ...]:
        """Shape of one image's row in the array `kind`."""
        if kind in POOLED:
            return (self.dim if kind == MEAN else self.embedding,)
        n_tokens = {PATCH: self.n_patches, PREFIX: self.n_prefix}[kind.removesuffix(SCALE)]
        return (n_tokens,) if kind.endswith(SCALE) else (n_tokens, self.dim)


def check_split_name(name: object) -> None:
    """Refuse a name of a split that could not be a folder of a store in every format.

    A split is a folder, a Zarr group and a part of file names: the name must not lead out of the store, nor be one that
    a store, or Zarr (specification 3, "Node names"), keeps for itself.

    Raises:
        InputError: says what is wrong with the name.
    """
    fault = _fault_of(name)
    if fault is not None:
        raise InputError(
            f"split name {repr(name)[:MAX_SPLIT_BYTES]} {fault}; "
            f"give the split a plain name, such as train, of at most {MAX_SPLIT_BYTES} bytes"
        )


def _fault_of(name: object) -> str | None:
    """Return what keeps a name from being a split's, or None."""
    if not isinstance(name, str):
        return "is no text"
    if name == "":
        return "is empty"
    if "/" in name or "\\" in name:
        return "holds a path separator"
    if name.startswith((".", "__")):
        return "begins with '.' or '__'"
    if not name.isprintable() or name != name.strip():  # a lone surrogate, which no file name holds, is not printable
        return "holds control characters, or blanks at an end"
    if name in RESERVED or name.endswith(TEMPORARY):
        return "is kept for files of the store"
    return "is too long" if len(name.encode()) > MAX_SPLIT_BYTES else None


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
