r"""The cost of a smaller dtype: the error it brings to the tokens of a store, measured on a sample.

Let x be a token and x' the token that the reader would give, in float16 for int8. The relative error is
‖x − x'‖ / ‖x‖, and the cosine distance is 1 − x·x' / (‖x‖ ‖x'‖). Both are computed in float64.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, StoreError
from .array_spec import array_spec
from .health import take_stock
from .layout import PATCH, layer_name
from .order import RowNumbers, permutation
from .quantize import (
    STATISTICS_ROWS,
    bfloat16_bits,
    channel_statistics,
    dequantize,
    from_bfloat16,
    quantize,
    stored_kinds,
)
from .reader import Split, Store

N_IMAGES = 256
"""Images in the sample: with a ViT-B/16, 50,176 tokens per layer."""
PIECE_VALUES = 2**21
"""Values in memory at a time: 16 MiB in float64."""

Array = npt.NDArray[Any]

OTHERS = {
    "float32": ("float16", "bfloat16", "int8"),
    "float16": ("bfloat16", "int8"),
    "bfloat16": ("float16", "int8"),
}
"""For each dtype, the others of the same size or smaller."""

RETURNED: dict[str, Callable[[Array, Array], Array]] = {
    "float16": lambda tokens, _: tokens.astype(np.float16),
    "bfloat16": lambda tokens, _: from_bfloat16(bfloat16_bits(tokens)),
    "int8": lambda tokens, channels: dequantize(*quantize(tokens, channels), channels, np.float16),
}
"""For each dtype, a function from float32 tokens to the tokens as read back, given mean and deviation per channel."""


@dataclass(frozen=True)
class Spread:
    """The median and the largest error over tokens."""

    median: float
    worst: float


@dataclass(frozen=True)
class Cost:
    """The cost of another dtype for one layer.

    Attributes:
        layer: index.
        dtype: the other one.
        size: bytes of the layer's arrays, as a fraction of their present bytes.
        relative: relative error per patch token; infinite if a value overflows.
        distance: cosine distance per patch token; infinite if a value overflows.
        largest: largest absolute value in the sample.
        overflows: whether a value does not fit; an extraction would refuse the dtype.
    """

    layer: int
    dtype: str
    size: float
    relative: Spread
    distance: Spread
    largest: float
    overflows: bool


@dataclass(frozen=True)
class Audit:
    """The cost of each smaller dtype for a store, layer by layer.

    Attributes:
        split: the split of the sample.
        n_images: in the sample.
        costs: by layer, then dtype.
    """

    split: str
    n_images: int
    costs: list[Cost]


def audit(store: Store, *, n_images: int = N_IMAGES, seed: int = 0) -> Audit:
    """Measure the cost of each smaller dtype on patch tokens of the largest split, at view 0.

    int8 takes its channel statistics from the first 1,024 images, as an extraction does. Unfinished layers are left
    out.

    Args:
        store: an open store.
        n_images: images to sample.
        seed: of the sample.

    Raises:
        InputError: the tokens are int8 already, or no patch tokens are stored.
        StoreError: no layer is finished.
    """
    dtype = store.manifest.recipe.dtype
    if dtype not in OTHERS:
        raise InputError(
            f"{str(store.path)!r} is {dtype}, and no dtype is smaller; audit a store of {', '.join(OTHERS)}"
        )
    split = max((store[name] for name in store.splits), key=len)
    rows = np.sort(permutation(len(split), seed)[:n_images])
    costs = [cost for layer in _readable_layers(split) for cost in _audit_layer(split, layer, rows)]
    return Audit(split.name, len(rows), costs)


def _readable_layers(split: Split) -> list[int]:
    """Return the finished layers with patch tokens."""
    stored = [layer for layer in split.layers if split.has(layer, PATCH)]
    if not stored:
        raise InputError(
            f"split {split.name!r} of {str(split.store.path)!r} has no patch tokens to audit; "
            "extract some with --tokens patch"
        )
    stock = take_stock(split.store)
    finished = [layer for layer in stored if stock is None or (split.name, layer) not in stock.unfinished]
    if not finished:
        raise StoreError(
            f"no layer of split {split.name!r} of {str(split.store.path)!r} is finished; "
            "run the same probe extract again"
        )
    return finished


def _audit_layer(split: Split, layer: int, rows: RowNumbers) -> Iterator[Cost]:
    dtype = split.store.manifest.recipe.dtype
    channels, largest = _channels(split, layer), 0.0
    errors = {other: _Errors(other) for other in OTHERS[dtype]}
    for tokens in _pieces(split, layer, rows):
        largest = max(largest, float(np.abs(tokens).max()))
        for found in errors.values():
            found.add(tokens, channels)
    for other, found in errors.items():
        size = _row_bytes(split, layer, other) / _row_bytes(split, layer, dtype)
        yield Cost(layer, other, size, *found.spreads(), largest, found.overflows)


@dataclass
class _Errors:
    """The errors of one dtype on the tokens seen so far."""

    dtype: str
    found: list[Array] = field(default_factory=list)
    overflows: bool = False

    def add(self, tokens: Array, channels: Array) -> None:
        """Measure float32 tokens (…, dim); `channels` (2, dim) are mean and deviation, for int8."""
        with np.errstate(over="ignore", invalid="ignore"):
            returned = RETURNED[self.dtype](tokens, channels)
        self.found.append(token_errors(tokens, returned))
        self.overflows |= not np.isfinite(returned).all()

    def spreads(self) -> tuple[Spread, Spread]:
        """Return the spreads of the relative errors and of the cosine distances."""
        relative, distance = np.concatenate(self.found, axis=1)
        return _spread(relative), _spread(distance)


def _spread(errors: Array) -> Spread:
    return Spread(float(np.median(errors)), float(errors.max()))


def token_errors(tokens: Array, returned: Array) -> Array:
    """Return the relative error and the cosine distance of every token.

    Args:
        tokens: (…, dim).
        returned: (…, dim), the tokens as read back.

    Returns:
        (2, tokens) float64. Both errors are infinite if a value is infinite. A token of zeros has the relative error 0
        if zeros come back, else infinity. If the cosine is not defined, the distance equals the relative error.
    """
    x, y = (values.reshape(-1, values.shape[-1]).astype(np.float64) for values in (tokens, returned))
    with np.errstate(divide="ignore", invalid="ignore"):
        error, norm, other = (np.linalg.norm(values, axis=1) for values in (x - y, x, y))
        relative = np.where(error == 0, 0, np.where(np.isnan(error), np.inf, error) / norm)
        distance = np.maximum(0, 1 - np.einsum("nd,nd->n", x, y) / (norm * other))
    return np.stack([relative, np.where(np.isfinite(distance), distance, relative)])


def _channels(split: Split, layer: int) -> Array:
    """Return (2, dim) float32: the mean and deviation per channel that would standardise int8 tokens."""
    n_images = min(len(split), STATISTICS_ROWS)
    total, squares = np.zeros((2, split.shape(layer).dim))
    for tokens in _pieces(split, layer, np.arange(n_images)):
        x = tokens.reshape(-1, len(total)).astype(np.float64)
        total += x.sum(0)
        squares += np.square(x).sum(0)
    return channel_statistics(n_images * split.shape(layer).n_patches, total, squares)


def _pieces(split: Split, layer: int, rows: RowNumbers) -> Iterator[Array]:
    """Yield patch tokens of a layer as float32, a few rows at a time."""
    shape = split.shape(layer)
    step = max(1, PIECE_VALUES // (shape.n_patches * shape.dim))
    for start in range(0, len(rows), step):
        yield split.tokens(layer, rows[start : start + step], dtype=np.float32)


def _row_bytes(split: Split, layer: int, dtype: str) -> int:
    """Return the bytes per image of a layer, over all its arrays."""
    manifest, name = split.store.manifest, layer_name(layer)
    kinds = stored_kinds(split.info.layers[name], dtype)  # no scales yet: there is no audit of int8
    return sum(array_spec(manifest, split.name, name, kind, dtype=dtype).row_bytes for kind in kinds)
