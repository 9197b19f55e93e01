"""The division of work and the launch of the kernels in `fused_kernels.py`. Importing this needs Triton."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import fused_kernels as kernels

SCORES, SCORES_NORMED = 208, 136
"""Scores, or scores and their gradients, in a thread's 255 registers. Slices and addresses need the rest, and so do
norms and means of normalised tokens."""
TILES = [(128, 4), (128, 8), (64, 4), (64, 8), (32, 4), (32, 8), (16, 4), (16, 8)]
"""Queries and warps per program. The first that fits is the fastest: each slice of tokens serves more queries."""
LARGEST_PART = 256
"""Rows that the hardware copies at once."""
SHARED_BYTES = 96 * 2**10
"""Shared memory of a program in bytes, if no device reports its own."""


class Tiles(NamedTuple):
    """The division of a kernel's work.

    Attributes:
        queries: queries per program, a power of two from 16.
        parts: parts of an image's tokens; see `divide_tokens`.
        width: channels per slice, a power of two from 16.
        warps: warps per program.
        stages: slices in shared memory at once: one in use, the others being copied.
    """

    queries: int
    parts: tuple[int, ...]
    width: int
    warps: int
    stages: int


def choose_tiles(x_BND: Tensor, n_queries: int, *, normed: bool, g_bytes: int | None = None) -> Tiles:
    """Choose a kernel's tiles: as many queries as fit the registers, as many slices ahead as fit the shared memory.

    Four warps leave half of the registers and of the shared memory to a second program.

    Args:
        x_BND: tokens.
        n_queries: queries per image.
        normed: whether the tokens are normalised.
        g_bytes: bytes per number of the gradient of z, for the backward kernel.
    """
    (_, n_tokens, dim), itemsize = x_BND.shape, x_BND.itemsize
    parts, most = divide_tokens(n_tokens), power_of_two(n_queries)
    n_scores, of_warp = sum(parts) * (1 if g_bytes is None else 2), 32 * (SCORES_NORMED if normed else SCORES)
    queries, warps = next(
        (queries, warps) for queries, warps in TILES if queries <= most and queries * n_scores <= of_warp * warps
    )
    a_channel = queries * (itemsize + (g_bytes or 0)) + sum(parts) * itemsize
    shared = (shared_bytes(x_BND.device) - 2**10) * warps // 8
    if g_bytes is None and queries < 16 * warps:
        shared -= queries * sum(parts) * itemsize  # warps that share rows exchange the maps here
    for width, least, largest in ((64, 3, 3), (32, 2, 4), (16, 1, 4)):
        stages = min(largest, shared // (a_channel * width))
        if stages >= least:
            break
    return Tiles(queries, parts, min(width, power_of_two(dim)), warps, stages)


def divide_tokens(n_tokens: int) -> tuple[int, ...]:
    """Return up to three powers of two, largest first, with the number of tokens or little more as their sum.

    Three are enough for `fused.MOST_TOKENS`. Beside a largest part, a small one costs more registers than it saves.
    """
    smallest, parts = 16 if n_tokens <= LARGEST_PART else 64, list[int]()
    while n_tokens > 0:
        whole = max(smallest, power_of_two(n_tokens))
        part = whole if whole - n_tokens < smallest or len(parts) == 2 else whole // 2
        parts.append(min(part, LARGEST_PART))
        n_tokens -= parts[-1]
    return tuple(parts)


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least n and at least 16, the minimum of a matrix unit."""
    return max(16, 1 << (n - 1).bit_length())


def shared_bytes(device: torch.device) -> int:
    """Return the shared memory that a program can have on a device."""
    if device.type != "cuda":
        return SHARED_BYTES
    return int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)  # type: ignore[attr-defined]


def has_descriptors(device: torch.device) -> bool:
    """Return whether a device copies tiles by descriptors: GPUs from Hopper on do, and Triton's interpreter."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (9, 0)


def launch_nothing() -> None:
    """Compile a kernel that does nothing, and launch it."""
    kernels.nothing[(1,)]()


class Attention:
    """Tokens and queries in the form that the kernels take.

    Rows of D numbers lie in memory as `fused.aligned` returns them.
    """

    def __init__(self, x_BND: Tensor, u_GXD: Tensor, scale_BN: Tensor | None, mean_BN: Tensor | None) -> None:
        """Take tokens and queries.

        Args:
            x_BND: tokens, contiguous.
            u_GXD: queries of the same type; G is B, or 1 if they are the same for all images.
            scale_BN: r, float32, contiguous; None for 1.
            mean_BN: m, likewise; None for 0, only if r is None.
        """
        self._x_BND, self._u_GXD, self._of_tokens = x_BND, u_GXD, (scale_BN, mean_BN)

    def forward(self, z_BXD: Tensor, lse_BX: Tensor, tiles: Tiles | None = None) -> None:
        """Write z, and the log-sum-exp of the scores in float32.

        Args:
            z_BXD: output of any dtype.
            lse_BX: float32.
            tiles: others than `choose_tiles` chooses.
        """
        tiles = tiles or self._choose_tiles()
        self._launch(kernels.forward, (*self._rows(z_BXD, tiles), *_numbers(lse_BX)), tiles)

    def backward(
        self, lse_BX: Tensor, g_BXD: Tensor, h_BX: Tensor | None, ds_BXN: Tensor, tiles: Tiles | None = None
    ) -> None:
        """Write r ds, the gradient of the products u·x_n.

        Args:
            lse_BX: as `forward` writes it.
            g_BXD: gradient of z, of any type; it is rounded to that of the tokens.
            h_BX: gradient of the log-sum-exp, float32, or None for 0.
            ds_BXN: of any type.
            tiles: others than `choose_tiles` chooses.
        """
        tiles = tiles or self._choose_tiles(g_BXD.itemsize)
        others = (*_numbers(lse_BX), *self._rows(g_BXD, tiles), *_numbers(h_BX), *_numbers(ds_BXN))
        self._launch(kernels.backward, others, tiles)

    def _choose_tiles(self, g_bytes: int | None = None) -> Tiles:
        normed = self._of_tokens[0] is not None
        return choose_tiles(self._x_BND, self._u_GXD.shape[1], normed=normed, g_bytes=g_bytes)

    def _rows(self, rows: Tensor, tiles: Tiles) -> tuple[Any, ...]:
        """Return rows of queries in a kernel's form, and the strides of images and rows."""
        strides = [0 if size == 1 else stride for size, stride in zip(rows.shape, rows.stride(), strict=True)]
        return (self._descriptor(rows, tiles.queries, tiles.width), *strides[:2])

    def _descriptor(self, rows: Tensor, n_rows: int, width: int) -> Any:
        """Return a descriptor of tiles of some rows, or the rows if the kernel makes it."""
        if not has_descriptors(rows.device):
            return rows
        dim = rows.shape[2]  # an axis of one may have any stride
        strides = [dim if size == 1 else stride for size, stride in zip(rows.shape[:2], rows.stride(), strict=False)]
        return TensorDescriptor(rows, [*rows.shape], [*strides, 1], [1, n_rows, width])

    def _launch(self, kernel: Any, others: tuple[Any, ...], tiles: Tiles) -> None:
        (n_images, n_tokens, dim), n_queries = self._x_BND.shape, self._u_GXD.shape[1]
        x = [self._descriptor(self._x_BND, n_tokens, tiles.width) for n_tokens in tiles.parts]
        operands = (*x, *[None] * (3 - len(x)), *self._of_tokens, *self._rows(self._u_GXD, tiles), *others, n_queries)
        sizes = (n_tokens, dim, tiles.parts, tiles.queries, tiles.width, has_descriptors(self._x_BND.device))
        n_programs = n_images * -(-n_queries // tiles.queries)
        with torch.cuda.device_of(self._x_BND):
            kernel[(n_programs,)](*operands, *sizes, num_warps=tiles.warps, num_stages=tiles.stages)


def _numbers(values: Tensor | None) -> tuple[Any, ...]:
    """Return one number per query in a kernel's form, and the strides of images and queries."""
    return (None, 0, 0) if values is None else (values, *values.stride()[:2])
