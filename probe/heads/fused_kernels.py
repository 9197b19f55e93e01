"""The Triton kernels of `fused.py`: one program per image and tile of queries, all tokens of the image at once.

Both make the scores of a tile from slices of the width, in float32 registers; tokens are padded to a power of two. The
forward kernel takes the softmax there and multiplies it with the tokens, slice by slice. The backward kernel makes the
scores again, and from the same slices the products of the tokens with the gradient of z.

The tokens that are attended to are r_n (x_n − m_n 1), m_n their mean over channels; r_n = 1 and m_n = 0 if not given.
Scores leave m_n out: where a query sums to 0 over channels, as `fused.attend` takes it, m_n adds nothing. With p the
softmax over tokens, g the gradient of z and h that of the log-sum-exp:

    s_n = r_n u·x_n,    z = sum_n p_n r_n x_n − (sum_n p_n r_n m_n) 1
    dp_n = r_n (g·x_n − m_n g·1),    ds_n = p_n (dp_n − sum_k p_k dp_k + h),    du = sum_n r_n ds_n x_n

The backward kernel writes r_n ds_n. The sum for du is a matrix product, of all images at once where they share queries.

    N tokens, D width, X queries; a tile: TILE_X queries, TILE_N ≥ N tokens, slices TILE_D wide
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, disable-error-code="untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def nothing():
    """Do nothing: to find out whether a kernel compiles and starts."""


@triton.jit
def _place(n_queries, TILE_X: tl.constexpr):
    """Return the image and the queries of this program; those of one image run side by side and share its tokens."""
    n_tiles = tl.cdiv(n_queries, TILE_X)
    program = tl.program_id(0)
    return (program // n_tiles).to(tl.int64), (program % n_tiles) * TILE_X + tl.arange(0, TILE_X).to(tl.int64)


@triton.jit
def _slice(start, WIDTH: tl.constexpr, TILE_D: tl.constexpr):
    """Return the channels of a slice, and which of them there are."""
    channel = start + tl.arange(0, TILE_D)
    return channel, (channel < WIDTH) if WIDTH % TILE_D else (channel >= 0)


@triton.jit
def _load(pointers, is_row, is_column):
    return tl.load(pointers, mask=is_row[:, None] & is_column[None, :], other=0.0)


@triton.jit
def forward(  # noqa: PLR0913
    x_ptr, scale_ptr, mean_ptr, u_ptr, u_image, u_query, z_ptr, z_image, z_query, lse_ptr, lse_image, lse_query,
    n_queries, n_tokens, WIDTH: tl.constexpr, TILE_X: tl.constexpr, TILE_N: tl.constexpr, TILE_D: tl.constexpr,
):  # fmt: skip
    """Write z and the log-sum-exp of the scores; every tensor from u on comes with its strides."""
    image, query = _place(n_queries, TILE_X)
    token = tl.arange(0, TILE_N)
    is_query, is_token = query < n_queries, token < n_tokens
    x_ptr += image * n_tokens * WIDTH
    u_ptr += image * u_image
    z_ptr += image * z_image
    s = tl.zeros((TILE_X, TILE_N), tl.float32)
    for start in range(0, WIDTH, TILE_D):
        channel, is_channel = _slice(start, WIDTH, TILE_D)
        u = _load(u_ptr + query[:, None] * u_query + channel[None, :], is_query, is_channel)
        x = _load(x_ptr + token[None, :] * WIDTH + channel[:, None], is_channel, is_token)
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
    for start in range(0, WIDTH, TILE_D):
        channel, is_channel = _slice(start, WIDTH, TILE_D)
        x = _load(x_ptr + token[:, None] * WIDTH + channel[None, :], is_token, is_channel)
        z = tl.dot(weight, x, input_precision="ieee")
        if scale_ptr is not None:
            z -= shift[:, None]
        mask = is_query[:, None] & is_channel[None, :]
        tl.store(z_ptr + query[:, None] * z_query + channel[None, :], z.to(z_ptr.dtype.element_ty), mask=mask)


@triton.jit
def backward(  # noqa: PLR0913
    x_ptr, scale_ptr, mean_ptr, u_ptr, u_image, u_query, lse_ptr, lse_image, lse_query,
    g_ptr, g_image, g_query, h_ptr, h_image, h_query, ds_ptr, ds_image, ds_query,
    n_queries, n_tokens, WIDTH: tl.constexpr, TILE_X: tl.constexpr, TILE_N: tl.constexpr, TILE_D: tl.constexpr,
):  # fmt: skip
    """Write r ds; every tensor from u on comes with its strides."""
    image, query = _place(n_queries, TILE_X)
    token = tl.arange(0, TILE_N)
    is_query, is_token = query < n_queries, token < n_tokens
    x_ptr += image * n_tokens * WIDTH
    u_ptr += image * u_image
    g_ptr += image * g_image
    s = tl.zeros((TILE_X, TILE_N), tl.float32)
    dp = tl.zeros((TILE_X, TILE_N), tl.float32)
    g_sum = tl.zeros((TILE_X,), tl.float32)
    for start in range(0, WIDTH, TILE_D):
        channel, is_channel = _slice(start, WIDTH, TILE_D)
        u = _load(u_ptr + query[:, None] * u_query + channel[None, :], is_query, is_channel)
        g = _load(g_ptr + query[:, None] * g_query + channel[None, :], is_query, is_channel).to(u.dtype)
        x = _load(x_ptr + token[None, :] * WIDTH + channel[:, None], is_channel, is_token)
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
    ds_ptr += image * ds_image
    mask = is_query[:, None] & is_token[None, :]
    tl.store(ds_ptr + query[:, None] * ds_query + token[None, :], ds.to(ds_ptr.dtype.element_ty), mask=mask)
