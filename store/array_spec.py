"""Name, shape, type and block size of each array that is stored in blocks, as a manifest declares it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from .layout import SCALE, array_name, layer_index
from .manifest import Manifest
from .quantize import DTYPES, TokenType, array_type


@dataclass(frozen=True)
class ArraySpec:
    """One array of tokens, means or scales.

    Attributes:
        name: such as "train/layer_05/patch".
        n_views: views of its split.
        n_images: rows of its split.
        block_rows: rows per block file.
        row: shape of one row.
        type: how its values are stored.
    """

    name: str
    n_views: int
    n_images: int
    block_rows: int
    row: tuple[int, ...]
    type: TokenType

    @property
    def n_blocks(self) -> int:
        """Blocks per view."""
        return -(-self.n_images // self.block_rows)

    def rows_of(self, block: int) -> range:
        """Return the rows of the split that one block holds; the last block may hold fewer than `block_rows`."""
        start = block * self.block_rows
        return range(start, min(start + self.block_rows, self.n_images))

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return prod(self.row) * self.type.stored.itemsize

    @property
    def block_bytes(self) -> int:
        """Bytes of the rows in a block file. Every file has room for `block_rows` rows."""
        return self.block_rows * self.row_bytes

    @property
    def n_bytes(self) -> int:
        """Bytes of all rows over all views, without the empty room in last blocks."""
        return self.n_views * self.n_images * self.row_bytes

    def scale(self) -> "ArraySpec":
        """Return the array of the scales of int8 tokens."""
        return replace(self, name=self.name + SCALE, row=self.row[:1], type=DTYPES["float16"])

    @property
    def is_bfloat16(self) -> bool:
        """Whether the stored integers are the bits of bfloat16 values."""
        return self.type.name == "bfloat16"


def array_spec(manifest: Manifest, split: str, layer: str, kind: str, *, dtype: str | None = None) -> ArraySpec:
    """Return the shape and type of one array that is stored in blocks.

    Args:
        manifest: of the store.
        split: by name.
        layer: by name, such as "layer_05".
        kind: such as "patch".
        dtype: of the tokens; the store's by default.
    """
    info = manifest.splits[split]
    return ArraySpec(
        array_name(split, layer, kind),
        info.views,
        info.n_images,
        info.block_rows,
        manifest.shape(layer_index(layer)).row_shape(kind),
        array_type(kind, dtype or manifest.recipe.dtype),
    )


def array_specs(manifest: Manifest) -> Iterator[ArraySpec]:
    """Yield every array that is stored in blocks, sorted by split, layer and kind."""
    for split, info in sorted(manifest.splits.items()):
        for layer, kinds in sorted(info.layers.items()):
            for kind in sorted(kinds):
                yield array_spec(manifest, split, layer, kind)
