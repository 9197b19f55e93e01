"""The Triton kernels of `fused.py`: one program per image and tile of queries, all tokens of the image at once.

Both kernels compute the scores of a tile from slices of the width, in float32 registers. The forward kernel takes the
softmax there and multiplies it with the tokens, slice by slice. The backward kernel recomputes the scores. From the
same slices it computes the products of the tokens with the gradient of z.

A tile has a power of two of rows. So an image's tokens come in up to three parts (196 as 128 + 64 + 16), and only a few
rows of the last part are padding. Rows to multiply come through descriptors: GPUs from Hopper on copy them one tile at
a time, and fill rows or channels beyond the tensor with zeros.

The kernels attend to r_n (x_n − m_n 1), with m_n the token's mean over channels; r_n = 1 and m_n = 0 if not given. The
scores leave m_n out: `fused.attend` takes queries that sum to 0 over channels, so m_n adds nothing. With p the
softmax over tokens, g the gradient of z and h that of the log-sum-exp:

    s_n = r_n u·x_n,    z = sum_n p_n r_n x_n − (sum_n p_n r_n m_n) 1
    dp_n = r_n (g·x_n − m_n g·1),    ds_n = p_n (dp_n − sum_k p_k dp_k + h),    du = sum_n r_n ds_n x_n

The backward kernel writes r_n ds_n. The sum for du is a matrix product, one for all images if they share queries.

    N tokens in PARTS, D width, X queries; a tile: TILE_X queries, slices TILE_D wide
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# mypy: disable-error-code="untyped-decorator, assignment, var-annotated"

import triton
import triton.language as tl


@triton.jit
def nothing():
    """Do nothing. It tests whether a kernel compiles and starts."""


@triton.constexpr_function
def n_before(parts, index):
    """Return the number of tokens in the parts before `index`."""
    return sum(parts[:index])


@triton.jit
def _place(n_queries, TILE_X: tl.constexpr):
    """Return the image and first query of this program; programs of one image run side by side and share its tokens."""
    n_tiles = tl.cdiv(n_queries, TILE_X)
    program = tl.program_id(0)
    return program // n_tiles, (program % n_tiles) * TILE_X


@triton.jit
def _describe(  # noqa: PLR0913
    rows, image, n_rows, of_image, of_row,
    WIDTH: tl.constexpr, TILE: tl.constexpr, TILE_D: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Return a descriptor of some rows of each image; make it from a pointer and strides if none is given."""
    if not DESCRIBED:
        rows = tl.make_tensor_descriptor(rows, [image + 1, n_rows, WIDTH], [of_image, of_row, 1], [1, TILE, TILE_D])
    return rows


@triton.jit
def _describe_tokens(  # noqa: PLR0913
    x0, x1, x2, image, N_TOKENS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr, TILE_D: tl.constexpr,
    DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Return a descriptor of the tokens for each part."""
    given, x = (x0, x1, x2), ()
    for i in tl.static_range(len(PARTS)):
        x += (_describe(given[i], image, N_TOKENS, N_TOKENS * WIDTH, WIDTH, WIDTH, PARTS[i], TILE_D, DESCRIBED),)
    return x


@triton.jit
def _zeros(TILE_X: tl.constexpr, PARTS: tl.constexpr):
    """Return zeros for each part."""
    zeros = ()
    for i in tl.static_range(len(PARTS)):
        zeros += (tl.full((TILE_X, PARTS[i]), 0.0, tl.float32),)
    return zeros


@triton.jit
def _load(rows, image, first, start):
    """Return a tile of an image's rows, starting at a row and a channel."""
    return rows.load([image, first, start]).reshape(rows.block_shape[1], rows.block_shape[2])


@triton.jit
def _load_tokens(ptr, image, N_TOKENS: tl.constexpr, PARTS: tl.constexpr, index: tl.constexpr):
    """Return one number per token of a part, 0 for padding."""
    token = n_before(PARTS, index) + tl.arange(0, PARTS[index])
    return tl.load(ptr + image.to(tl.int64) * N_TOKENS + token, mask=token < N_TOKENS, other=0.0)[None, :]


@triton.jit
def _where_token(values, other, N_TOKENS: tl.constexpr, PARTS: tl.constexpr, index: tl.constexpr):
    """Return the values of a part's tokens, and `other` for padding."""
    if n_before(PARTS, index + 1) > N_TOKENS:
        token = n_before(PARTS, index) + tl.arange(0, PARTS[index])
        values = tl.where((token < N_TOKENS)[None, :], values, other)
    return values


@triton.jit
def _softmax(s, scale_ptr, image, TILE_X: tl.constexpr, N_TOKENS: tl.constexpr, PARTS: tl.constexpr):
    """Return the softmax of r s over the tokens of all parts, and its log-sum-exp."""
    most, scores = tl.full((TILE_X,), -float("inf"), tl.float32), ()
    for i in tl.static_range(len(PARTS)):
        of_part = s[i]
        if scale_ptr is not None:
            of_part *= _load_tokens(scale_ptr, image, N_TOKENS, PARTS, i)
        of_part = _where_token(of_part, -float("inf"), N_TOKENS, PARTS, i)
        most = tl.maximum(most, tl.max(of_part, 1))
        scores += (of_part,)
    total, powers = tl.full((TILE_X,), 0.0, tl.float32), ()
    for i in tl.static_range(len(PARTS)):
        of_part = tl.exp(scores[i] - most[:, None])
        total += tl.sum(of_part, 1)
        powers += (of_part,)
    of_total, p = 1 / total, ()
    for i in tl.static_range(len(PARTS)):
        p += (powers[i] * of_total[:, None],)
    return p, most + tl.log(total)


@triton.jit
def forward(  # noqa: PLR0913
    x0, x1, x2, scale_ptr, mean_ptr, u, u_image, u_query, z, z_image, z_query, lse_ptr, lse_image, lse_query, n_queries,
    N_TOKENS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr, TILE_X: tl.constexpr, TILE_D: tl.constexpr,
    DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Write z and the log-sum-exp of the scores.

    Rows come as descriptors or as pointers: one per part of the tokens, one for the queries (shared by all images if
    `u_image` is 0), and one for z. Every tensor from u on comes with its strides.
    """
    image, first = _place(n_queries, TILE_X)
    query, long_image, own = (first + tl.arange(0, TILE_X)).to(tl.int64), image.to(tl.int64), image * (u_image > 0)
    x = _describe_tokens(x0, x1, x2, image, N_TOKENS, WIDTH, PARTS, TILE_D, DESCRIBED)
    u = _describe(u, image, n_queries, u_image, u_query, WIDTH, TILE_X, TILE_D, DESCRIBED)
    z = _describe(z, image, n_queries, z_image, z_query, WIDTH, TILE_X, TILE_D, DESCRIBED)
    s = _zeros(TILE_X, PARTS)
    for start in range(0, WIDTH, TILE_D):
        u_slice, sums = _load(u, own, first, start), ()
        for i in tl.static_range(len(PARTS)):
            x_slice = _load(x[i], image, n_before(PARTS, i), start)
            sums += (tl.dot(u_slice, x_slice.T, s[i], input_precision="ieee"),)
        s = sums
    p, lse = _softmax(s, scale_ptr, image, TILE_X, N_TOKENS, PARTS)
    tl.store(lse_ptr + long_image * lse_image + query * lse_query, lse, mask=query < n_queries)
    shift, weights = tl.full((TILE_X,), 0.0, tl.float32), ()
    for i in tl.static_range(len(PARTS)):
        weight = p[i]
        if scale_ptr is not None:
            weight *= _load_tokens(scale_ptr, image, N_TOKENS, PARTS, i)
            shift += tl.sum(weight * _load_tokens(mean_ptr, image, N_TOKENS, PARTS, i), 1)
        weights += (weight.to(x[0].dtype),)
    for start in range(0, WIDTH, TILE_D):
        z_slice = tl.full((TILE_X, TILE_D), 0.0, tl.float32)
        for i in tl.static_range(len(PARTS)):
            x_slice = _load(x[i], image, n_before(PARTS, i), start)
            z_slice = tl.dot(weights[i], x_slice, z_slice, input_precision="ieee")
        if scale_ptr is not None:
            z_slice -= shift[:, None]
        z.store([image, first, start], z_slice.to(z.dtype).reshape(1, TILE_X, TILE_D))


@triton.jit
def backward(  # noqa: PLR0913
    x0, x1, x2, scale_ptr, mean_ptr, u, u_image, u_query, lse_ptr, lse_image, lse_query,
    g, g_image, g_query, h_ptr, h_image, h_query,
    ds_ptr, ds_image, ds_query, n_queries,
    N_TOKENS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr, TILE_X: tl.constexpr, TILE_D: tl.constexpr,
    DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Write r ds. Tensors come as for `forward`, and g like z."""
    image, first = _place(n_queries, TILE_X)
    query, long_image, own = (first + tl.arange(0, TILE_X)).to(tl.int64), image.to(tl.int64), image * (u_image > 0)
    is_query = query < n_queries
    x = _describe_tokens(x0, x1, x2, image, N_TOKENS, WIDTH, PARTS, TILE_D, DESCRIBED)
    u = _describe(u, image, n_queries, u_image, u_query, WIDTH, TILE_X, TILE_D, DESCRIBED)
    g = _describe(g, image, n_queries, g_image, g_query, WIDTH, TILE_X, TILE_D, DESCRIBED)
    s, dp, g_sum = _zeros(TILE_X, PARTS), _zeros(TILE_X, PARTS), tl.full((TILE_X,), 0.0, tl.float32)
    for start in range(0, WIDTH, TILE_D):
        u_slice, g_slice = _load(u, own, first, start), _load(g, image, first, start).to(u.dtype)
        s_sums, dp_sums = (), ()
        for i in tl.static_range(len(PARTS)):
            x_slice = _load(x[i], image, n_before(PARTS, i), start)
            s_sums += (tl.dot(u_slice, x_slice.T, s[i], input_precision="ieee"),)
            dp_sums += (tl.dot(g_slice, x_slice.T, dp[i], input_precision="ieee"),)
        s, dp = s_sums, dp_sums
        if scale_ptr is not None:
            g_sum += tl.sum(g_slice.to(tl.float32), 1)
    lse = tl.load(lse_ptr + long_image * lse_image + query * lse_query, mask=is_query, other=0.0)
    offset, p, products = tl.full((TILE_X,), 0.0, tl.float32), (), ()
    for i in tl.static_range(len(PARTS)):
        of_part, of_product = s[i], dp[i]
        if scale_ptr is not None:
            scale = _load_tokens(scale_ptr, image, N_TOKENS, PARTS, i)
            of_part *= scale
            of_product = (of_product - g_sum[:, None] * _load_tokens(mean_ptr, image, N_TOKENS, PARTS, i)) * scale
        of_part = _where_token(tl.exp(of_part - lse[:, None]), 0.0, N_TOKENS, PARTS, i)
        offset += tl.sum(of_part * of_product, 1)
        p += (of_part,)
        products += (of_product,)
    if h_ptr is not None:
        offset -= tl.load(h_ptr + long_image * h_image + query * h_query, mask=is_query, other=0.0)
    ds_ptr += long_image * ds_image + query[:, None] * ds_query
    for i in tl.static_range(len(PARTS)):
        ds = p[i] * (products[i] - offset[:, None])
        if scale_ptr is not None:
            ds *= _load_tokens(scale_ptr, image, N_TOKENS, PARTS, i)
        token = n_before(PARTS, i) + tl.arange(0, PARTS[i])
        is_there = is_query[:, None] & (token < N_TOKENS)[None, :]
        tl.store(ds_ptr + token[None, :], ds.to(ds_ptr.dtype.element_ty), mask=is_there)
