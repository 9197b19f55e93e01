"""The two Triton kernels of `fused.py`: one program per image and tile of queries, all tokens of the image at once.

Both make the scores of a tile over slices of the width, in float32 registers, with the tokens padded to a power of two.
The forward kernel takes their softmax there and multiplies it with the tokens, slice by slice. The backward kernel makes
the scores again, and beside them the products of the tokens with the gradient of z, from the same slices.

The tokens that are attended to are r_n (x_n − m_n 1), m_n their mean over channels; r_n = 1 and m_n = 0 if not given.
m_n is left out of the scores: it adds the same to none of them where queries sum to 0 over channels, as folded.py makes
them. With p the softmax over tokens, g the gradient of z and h that of the log-sum-exp:

    s_n = r_n u·x_n,    z = sum_n p_n r_n x_n − (sum_n p_n r_n m_n) 1
    dp_n = r_n (g·x_n − m_n g·1),    ds_n = p_n (dp_n − sum_k p_k dp_k + h),    du = sum_n r_n ds_n x_n

The last sum, over the tokens of all images where they share the queries, is one large matrix product and not made here.

    B images, N tokens, D width, X queries
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 128 * 256
"""Scores of a tile: float32 registers of two groups of four warps, half of them."""
SHARED_BYTES = 96 * 1024
"""Shared memory of a program where the device does not say more."""


class Tokens(NamedTuple):
    """Tokens to attend to.

    Attributes:
        x_BND: tokens, contiguous.
        scale_BN: r, in float32, contiguous; None for 1.
        mean_BN: m, likewise; None for 0, and only where r is None.
    """

    x_BND: Tensor
    scale_BN: Tensor | None
    mean_BN: Tensor | None


class Tiles(NamedTuple):
    """How a kernel divides its work.

    Attributes:
        queries: of a program, a power of two from 16.
        tokens: of an image, padded to a power of two from 16.
        width: channels of a slice, a power of two from 16.
        warps: of a program.
        stages: slices that are loaded ahead, the one in use included.
    """

    queries: int
    tokens: int
    width: int
    warps: int
    stages: int


def choose_tiles(x_BND: Tensor, n_queries: int, n_factors: int) -> Tiles:
    """Choose the tiles for a kernel that multiplies the tokens with `n_factors` vectors per query at once."""
    _, n_tokens, dim = x_BND.shape
    tokens = power_of_two(n_tokens)
    most = TILE // n_factors // tokens // (1 if x_BND.itemsize == 2 else 4)
    queries = min(power_of_two(n_queries), max(16, most), 128)
    width = min(power_of_two(dim), 128 // x_BND.itemsize)
    slice_bytes = (n_factors * queries + tokens) * width * x_BND.itemsize
    while slice_bytes * 2 > shared_bytes(x_BND.device) and width > 16:
        width, slice_bytes = width // 2, slice_bytes // 2
    stages = max(1, min(3, shared_bytes(x_BND.device) // slice_bytes))
    return Tiles(queries, tokens, width, 8 if queries * tokens * n_factors >= TILE // 2 else 4, stages)


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is n or more, and 16 or more: what a matrix unit multiplies."""
    return max(16, 1 << (n - 1).bit_length())


def shared_bytes(device: torch.device) -> int:
    """Return the shared memory that a program can have."""
    if device.type != "cuda":
        return SHARED_BYTES
    return int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)


def launch_nothing() -> None:
    """Compile and launch a kernel that does nothing."""
    _nothing[(1,)]()


def launch_forward(tokens: Tokens, u_GXD: Tensor, z_BXD: Tensor, lse_BX: Tensor, tiles: Tiles | None = None) -> None:
    """Write z and the log-sum-exp of the scores.

    Args:
        tokens: that are attended to.
        u_GXD: queries, in the type of the tokens; G is B, or 1 where they are the same for all images.
        z_BXD: of any type and strides.
        lse_BX: float32, of any strides.
        tiles: others than `choose_tiles` chooses.
    """
    tiles = tiles or choose_tiles(tokens.x_BND, u_GXD.shape[1], 1)
    _launch(_forward, tokens, u_GXD, (z_BXD, lse_BX), tiles)


def launch_backward(  # noqa: PLR0913, the operands of one formula
    tokens: Tokens,
    u_GXD: Tensor,
    lse_BX: Tensor,
    g_BXD: Tensor,
    h_BX: Tensor | None,
    ds_BXN: Tensor,
    tiles: Tiles | None = None,
) -> None:
    """Write r ds, the gradient of the products u·x_n.

    Args:
        tokens: as for `launch_forward`.
        u_GXD: likewise.
        lse_BX: as written there.
        g_BXD: gradient of z, of any type and strides; rounded to the type of the tokens.
        h_BX: gradient of the log-sum-exp, float32, of any strides, or None for 0.
        ds_BXN: of any type and strides.
        tiles: others than `choose_tiles` chooses.
    """
    tiles = tiles or choose_tiles(tokens.x_BND, u_GXD.shape[1], 2)
    _launch(_backward, tokens, u_GXD, (lse_BX, g_BXD, h_BX, ds_BXN), tiles)


def _launch(kernel: Any, tokens: Tokens, u_GXD: Tensor, others: tuple[Tensor | None, ...], tiles: Tiles) -> None:
    """Launch a kernel on all images and tiles of queries; every tensor after u is followed by its strides."""
    n_images, n_tokens, dim = tokens.x_BND.shape
    n_queries = u_GXD.shape[1]
    strided: list[Any] = []
    for tensor in others:
        strided += [tensor, *((0, 0) if tensor is None else tensor.stride()[:2])]
    with torch.cuda.device_of(tokens.x_BND):
        kernel[(n_images * triton.cdiv(n_queries, tiles.queries),)](
            *tokens,
            u_GXD,
            0 if u_GXD.shape[0] == 1 else u_GXD.stride(0),
            u_GXD.stride(1),
            *strided,
            n_queries,
            n_tokens,
            dim,
            *tiles[:3],
            num_warps=tiles.warps,
            num_stages=tiles.stages,
        )


@triton.jit
def _nothing():
    pass


@triton.jit
def _place(n_queries, TILE_X: tl.constexpr):
    """Return the image and the queries of this program; those of one image run side by side and share its tokens."""
    n_tiles = tl.cdiv(n_queries, TILE_X)
    program = tl.program_id(0)
    return (program // n_tiles).to(tl.int64), (program % n_tiles) * TILE_X + tl.arange(0, TILE_X).to(tl.int64)


@triton.jit
def _load(pointers, row_mask, column_mask):
    return tl.load(pointers, mask=row_mask[:, None] & column_mask[None, :], other=0.0)


@triton.jit
def _forward(
    x_ptr, scale_ptr, mean_ptr, u_ptr, u_image, u_query, z_ptr, z_image, z_query, lse_ptr, lse_image, lse_query,
    n_queries, n_tokens, dim, TILE_X: tl.constexpr, TILE_N: tl.constexpr, TILE_D: tl.constexpr,
):  # fmt: skip
    image, query = _place(n_queries, TILE_X)
    token, channel = tl.arange(0, TILE_N), tl.arange(0, TILE_D)
    is_query, is_token = query < n_queries, token < n_tokens
    x_ptr += image * n_tokens * dim
    u_ptr += image * u_image
    z_ptr += image * z_image
    s = tl.zeros((TILE_X, TILE_N), tl.float32)
    for start in range(0, dim, TILE_D):
        at = start + channel
        u = _load(u_ptr + query[:, None] * u_query + at[None, :], is_query, at < dim)
        x = _load(x_ptr + token[None, :] * dim + at[:, None], at < dim, is_token)
        s = tl.dot(u, x, s, input_precision="ieee")
    if scale_ptr is not None:
        scale = tl.load(scale_ptr + image * n_tokens + token, mask=is_token, other=0.0)
        s *= scale[None, :]
    s = tl.where(is_token[None, :], s, -float("inf"))
    most = tl.max(s, 1)
    p = tl.exp(s - most[:, None])
    total = tl.sum(p, 1)
    tl.store(lse_ptr + image * lse_image + query * lse_query, most + tl.log(total), mask=is_query)
    p = p / total[:, None]
    if scale_ptr is not None:
        p *= scale[None, :]
        mean = tl.load(mean_ptr + image * n_tokens + token, mask=is_token, other=0.0)
        shift = tl.sum(p * mean[None, :], 1)
    weight = p.to(x_ptr.dtype.element_ty)
    for start in range(0, dim, TILE_D):
        at = start + channel
        x = _load(x_ptr + token[:, None] * dim + at[None, :], is_token, at < dim)
        z = tl.dot(weight, x, input_precision="ieee")
        if scale_ptr is not None:
            z -= shift[:, None]
        mask = is_query[:, None] & (at < dim)[None, :]
        tl.store(z_ptr + query[:, None] * z_query + at[None, :], z.to(z_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _backward(
    x_ptr, scale_ptr, mean_ptr, u_ptr, u_image, u_query, lse_ptr, lse_image, lse_query,
    g_ptr, g_image, g_query, h_ptr, h_image, h_query, ds_ptr, ds_image, ds_query,
    n_queries, n_tokens, dim, TILE_X: tl.constexpr, TILE_N: tl.constexpr, TILE_D: tl.constexpr,
):  # fmt: skip
    image, query = _place(n_queries, TILE_X)
    token, channel = tl.arange(0, TILE_N), tl.arange(0, TILE_D)
    is_query, is_token = query < n_queries, token < n_tokens
    x_ptr += image * n_tokens * dim
    u_ptr += image * u_image
    g_ptr += image * g_image
    s = tl.zeros((TILE_X, TILE_N), tl.float32)
    dp = tl.zeros((TILE_X, TILE_N), tl.float32)
    g_sum = tl.zeros((TILE_X,), tl.float32)
    for start in range(0, dim, TILE_D):
        at = start + channel
        u = _load(u_ptr + query[:, None] * u_query + at[None, :], is_query, at < dim)
        g = _load(g_ptr + query[:, None] * g_query + at[None, :], is_query, at < dim).to(u.dtype)
        x = _load(x_ptr + token[None, :] * dim + at[:, None], at < dim, is_token)
        s = tl.dot(u, x, s, input_precision="ieee")
        dp = tl.dot(g, x, dp, input_precision="ieee")
        if scale_ptr is not None:
            g_sum += tl.sum(g.to(tl.float32), 1)
    if scale_ptr is not None:
        scale = tl.load(scale_ptr + image * n_tokens + token, mask=is_token, other=0.0)
        mean = tl.load(mean_ptr + image * n_tokens + token, mask=is_token, other=0.0)
        s *= scale[None, :]
        dp = (dp - g_sum[:, None] * mean[None, :]) * scale[None, :]
    lse = tl.load(lse_ptr + image * lse_image + query * lse_query, mask=is_query, other=0.0)
    p = tl.where(is_token[None, :], tl.exp(s - lse[:, None]), 0.0)
    offset = tl.sum(p * dp, 1)
    if h_ptr is not None:
        offset -= tl.load(h_ptr + image * h_image + query * h_query, mask=is_query, other=0.0)
    ds = p * (dp - offset[:, None])
    if scale_ptr is not None:
        ds *= scale[None, :]
    mask = is_query[:, None] & is_token[None, :]
    tl.store(
        ds_ptr + image * ds_image + query[:, None] * ds_query + token[None, :],
        ds.to(ds_ptr.dtype.element_ty),
        mask=mask,
    )
