"""Names, shapes and the block rule of a store, shared by both formats and both stages."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError, unknown_name
from .checked import Count, Width

FORMAT_VERSION = 1
PATCH, PREFIX, MEAN, EMBEDDING = "patch", "prefix", "mean", "embedding"
POOLED = (MEAN, EMBEDDING)
"""Arrays of one float32 vector per image: the mean token of every layer, and the backbone's embedding if it has one."""
SCALE, CHANNELS = "_scale", "_channels"
"""Suffixes of the arrays that int8 tokens need: one scale per token; mean and deviation per channel."""

TEMPORARY = ".tmp"
"""Suffix of a file that is being written."""

RESERVED = {"journal.jsonl", "journal.d", "zarr.json"}
"""Names that no split can have, because the store uses them at its top level."""
MAX_SPLIT_BYTES = 100
"""Most UTF-8 bytes in a split's name. File names made from it are then short enough for every disk."""

MIN_BLOCKS = 8
"""Fewest blocks per split, given enough images: shuffling permutes blocks."""

ROW_MULTIPLE = 64
"""Large blocks hold a multiple of this many images: common batch sizes then fill them without padding."""


@dataclass(frozen=True)
class LayerShape:
    """The tokens of one layer for one image.

    Attributes:
        grid: (height, width) of the patch tokens.
        dim: channels per token.
        n_prefix: class and register tokens.
        embedding: channels of the backbone's own embedding, stored with its last layer; 0 if there is none.
    """

    grid: tuple[Width, Width]
    dim: Width
    n_prefix: Count
    embedding: Count = 0

    @property
    def n_patches(self) -> int:
        """Patch tokens per image."""
        return self.grid[0] * self.grid[1]

    def kinds(self, dtype: str) -> set[str]:
        """Return the arrays that a store of a dtype can hold of the layer."""
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
    """Refuse a split name that cannot be a folder in a store of every format.

    A split is a folder, a Zarr group and a part of file names. Its name must not lead out of the store. Names that a
    store or Zarr (specification 3, "Node names") reserves are refused too.

    Raises:
        InputError: the name is refused; the message says why.
    """
    fault = _fault_of(name)
    if fault is not None:
        raise InputError(
            f"split name {repr(name)[:MAX_SPLIT_BYTES]} {fault}; "
            f"give the split a plain name, such as train, of at most {MAX_SPLIT_BYTES} bytes"
        )


def _fault_of(name: object) -> str | None:
    """Return the reason why a name cannot be a split's, or None."""
    if not isinstance(name, str):
        return "is not text"
    if name == "":
        return "is empty"
    if "/" in name or "\\" in name:
        return "holds a path separator"
    if name.startswith((".", "__")):
        return "begins with '.' or '__'"
    if not name.isprintable() or name != name.strip():  # refuses lone surrogates too, which no file name can hold
        return "holds control characters, or blanks at an end"
    if name in RESERVED or name.endswith(TEMPORARY):
        return "is reserved for files of the store"
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


def parse_layers(spec: str, known: Sequence[int], depth: int, owner: str = "store") -> list[int]:
    """Parse "all", "last4" or "0,5,-1" into layers, in order; negative indices count from the backbone's end.

    Args:
        spec: the text.
        known: indices of the layers that there are, in order.
        depth: number of layers of the backbone.
        owner: what has these layers, for the error.

    Raises:
        InputError: another form, or a layer that is not known.
    """
    if spec == "all":
        return list(known)
    if spec.startswith("last") and spec[4:].isdecimal():
        if not 1 <= int(spec[4:]) <= len(known):
            raise InputError(f"layers {spec!r}: the {owner} has {len(known)} layers")
        return list(known)[-int(spec[4:]) :]
    try:
        wanted = [int(part) for part in spec.split(",")]
    except ValueError:
        raise InputError(f"layers {spec!r}: expected all, lastN, or indices such as 0,5,-1") from None
    layers = [layer + depth if layer < 0 else layer for layer in wanted]
    for asked, layer in zip(wanted, layers, strict=True):
        if layer not in known:
            raise unknown_name(f"layer of the {owner}", str(asked), map(str, known))
    return sorted(set(layers))


def block_rows(n_images: int, image_bytes: int, block_bytes: int) -> int:
    """Return the number of images per block.

    It is the largest number that fits `block_bytes` and gives at least `MIN_BLOCKS` blocks. From `ROW_MULTIPLE` up, it
    is rounded down to a multiple of that.

    Args:
        n_images: images in the split.
        image_bytes: bytes per image of patch tokens, in the largest layer.
        block_bytes: target size of a block file.
    """
    rows = max(1, min(block_bytes // image_bytes, n_images // MIN_BLOCKS))
    return rows if rows < ROW_MULTIPLE else rows - rows % ROW_MULTIPLE
