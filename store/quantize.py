r"""The types that tokens are stored in, and their conversion back.

numpy has no bfloat16. Its bits, the upper half of a float32, are stored as uint16.

For int8, channels are standardised first, with the mean m_d and deviation s_d over the first 1,024 images, so that
outlier channels do not spoil the rest. Then each token n has one scale, its largest absolute value over 127:

    z_nd = (x_nd - m_d) / s_d,    c_n = max_d |z_nd| / 127,    q_nd = round(z_nd / c_n),    x'_nd = q_nd c_n s_d + m_d

c is rounded to float16 before it is used, so rounding it loses no accuracy.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import unknown_name
from .layout import PATCH, POOLED, PREFIX, SCALE

STATISTICS_ROWS = 1024
"""Number of first images whose tokens give the mean and deviation per channel for int8."""
LEVELS = 127
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TokenType:
    """One way to store tokens.

    Attributes:
        name: in the manifest and the flag.
        stored: numpy type in the files.
        returned: type that the reader gives by default.
        fill: marks a row that has not been written: NaN, or for int8 the one level that no token has.
    """

    name: str
    stored: np.dtype[Any]
    returned: np.dtype[Any]
    fill: float | int


_TYPES = (
    TokenType("float16", np.dtype(np.float16), np.dtype(np.float16), float("nan")),
    TokenType("bfloat16", np.dtype(np.uint16), np.dtype(np.float32), 0x7FC0),
    TokenType("float32", np.dtype(np.float32), np.dtype(np.float32), float("nan")),
    TokenType("int8", np.dtype(np.int8), np.dtype(np.float16), -128),
)
DTYPES = {each.name: each for each in _TYPES}


def token_type(name: str) -> TokenType:
    """Return the token type of that name.

    Raises:
        InputError: there is no such type.
    """
    if name not in DTYPES:
        raise unknown_name("dtype", name, DTYPES)
    return DTYPES[name]


def array_type(kind: str, dtype: str) -> TokenType:
    """Return the type of the array `kind` in a store of a dtype. Pooled vectors and scales are never quantised."""
    if kind in POOLED:
        return DTYPES["float32"]
    return DTYPES["float16"] if kind.endswith(SCALE) else token_type(dtype)


def stored_kinds(kinds: list[str], dtype: str) -> list[str]:
    """Return the arrays that store `kinds` (patch, prefix, mean): for int8, tokens come with their scales."""
    scaled = [kind + SCALE for kind in kinds if dtype == "int8" and kind in (PATCH, PREFIX)]
    return sorted([*kinds, *scaled])


def bfloat16_bits(values: Array) -> Array:
    """Round float32 values to the nearest bfloat16, ties to even; return the bits as uint16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    rounded[np.isnan(values)] = DTYPES["bfloat16"].fill  # the bits of some NaNs would round to a number
    return rounded


def from_bfloat16(bits: Array) -> Array:
    """Return the float32 values of bfloat16 bits, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def quantize(values: Array, channels: Array) -> tuple[Array, Array]:
    """Return (int8 tokens, float16 scales). The scale of a token is infinite if its values are too large for float16.

    Args:
        values: (…, dim) tokens.
        channels: (2, dim) float32, mean and deviation per channel.
    """
    mean, deviation = channels
    z = (values.astype(np.float32) - mean) / deviation
    with np.errstate(over="ignore"):
        scale = (np.abs(z).max(-1) / LEVELS).astype(np.float16)
    step = np.maximum(scale, np.finfo(np.float16).smallest_subnormal).astype(np.float32)[..., None]
    return np.clip(np.rint(z / step), -LEVELS, LEVELS).astype(np.int8), scale


def dequantize(tokens: Array, scale: Array, channels: Array, dtype: npt.DTypeLike) -> Array:
    """Return the values of int8 tokens (…, dim) with their scales (…), computed in float32."""
    mean, deviation = channels
    values: Array = tokens * scale[..., None].astype(np.float32)
    values *= deviation
    values += mean
    return values.astype(dtype, copy=False)


def channel_statistics(n: int, total: Array, squares: Array) -> Array:
    """Return (2, dim) float32, mean and deviation per channel, from sums over n tokens. Constant channels get 1."""
    mean = total / n
    deviation = np.sqrt(np.maximum(squares / n - mean**2, 0))
    deviation[deviation < 1e-6 * (1 + np.abs(mean))] = 1
    return np.stack([mean, deviation]).astype(np.float32)
