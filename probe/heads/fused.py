r"""Fused attention: z = softmax(u xᵀ) x without writing a map, for tokens on a GPU.

The operation is registered with torch as `tokenprobe::attend`, with its shape, gradient and cost (`flops.py`). The
forward pass keeps the log-sum-exp of the scores and no map; the backward pass recomputes the scores
(`fused_kernels.py`). It writes their gradient for a part of the queries at a time. This is an operation of its own, so
an estimate of memory sees it. One matrix product with the tokens then gives the gradient of these queries.

Tokens come from a store and get no gradient. If they need one, or if Triton cannot start, `folded.attend` uses torch's
own operations instead.

    B images, N tokens, D width, X queries: the maps of all cells; G = B, or 1 if all images share queries
"""

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

DTYPES = {torch.float16, torch.bfloat16}
"""Types that the matrix unit multiplies; for float32, torch's own products are more than twice as fast."""
MOST_TOKENS = 512
"""Most tokens of an image, all in registers at once. With more, too few queries fit beside them: on an H200 a step of
256 queries takes 0.7 times as long as unfused at 196 tokens, 0.8 at 261, and 2.3 at 576."""
ALIGNED = 8
"""A GPU copies tiles of rows that begin at multiples of 16 bytes."""
SCORES_BYTES = 2 * 2**30
"""Gradients of scores that the backward pass makes at a time."""

LIBRARY = torch.library.Library("tokenprobe", "FRAGMENT")
LIBRARY.define("attend(Tensor x, Tensor u, Tensor? scale, Tensor? mean) -> (Tensor, Tensor)")
LIBRARY.define(
    "attend_scores_backward(Tensor x, Tensor u, Tensor? scale, Tensor? mean, Tensor lse, Tensor g, Tensor? h) -> Tensor"
)


def can_fuse(x_BND: Tensor, u_BHMD: Tensor) -> bool:
    """Return whether `attend` accepts these tokens and queries on this machine."""
    return (
        x_BND.device.type == "cuda"
        and not (x_BND.requires_grad and torch.is_grad_enabled())
        and x_BND.shape[1] <= MOST_TOKENS
        and x_BND.shape[2] % ALIGNED == 0
        and _product_dtype(x_BND) in DTYPES
        and {x_BND.dtype, u_BHMD.dtype} <= {*DTYPES, torch.float32}
        and (x_BND.dtype == u_BHMD.dtype or torch.is_autocast_enabled("cuda"))
        and not torch.compiler.is_exporting()
        and starts()
        and torch.cuda.get_device_capability(x_BND.device) >= (8, 0)  # older GPUs have no bfloat16
    )


@cache
def starts() -> bool:
    """Return whether Triton starts; if not, warn once with the reason. Triton needs a C compiler."""
    try:
        from .fused_launch import launch_nothing

        launch_nothing()
    except Exception as error:  # imports, compilers and drivers raise errors of their own types
        reason = " ".join(str(error).split())[:200]
        logger.warning(
            f"attention runs unfused, which is slower: Triton does not start ({type(error).__name__}: {reason})"
        )
        return False
    return True


def attend(x_BND: Tensor, u_BHMD: Tensor, rstd_BN: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return z, (B, H, M, D), and the log-sum-exp of its scores, (B, H, M), in float32.

    Tokens and queries are multiplied in the type of the tokens, or of autocast. z has that type, or float32 over
    layer-normalised tokens.

    Args:
        x_BND: tokens.
        u_BHMD: folded queries; B is 1 if they are the same for all images. With `rstd_BN`, they are centred.
        rstd_BN: of `token_rstd`: attend over layer-normalised tokens.
    """
    x_BND = aligned(x_BND.to(_product_dtype(x_BND)).contiguous())
    u_GXD = aligned(u_BHMD.to(x_BND.dtype).flatten(1, 2))
    mean_BN = None if rstd_BN is None else x_BND.mean(-1, dtype=torch.float32)
    z_BXD, lse_BX = torch.ops.tokenprobe.attend(x_BND, u_GXD, rstd_BN, mean_BN)
    return z_BXD.unflatten(1, u_BHMD.shape[1:3]), lse_BX.unflatten(1, u_BHMD.shape[1:3])


def _product_dtype(x_BND: Tensor) -> torch.dtype:
    """Return the dtype in which tokens are multiplied."""
    kind = x_BND.device.type
    rounds = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if rounds else x_BND.dtype


def aligned(rows: Tensor) -> Tensor:
    """Return rows as the kernels need them: contiguous, at multiples of 16 bytes, and without overlap."""
    steps = [stride for size, stride in zip(rows.shape[:-1], rows.stride(), strict=False) if size > 1]
    unit = 16 // rows.itemsize
    if rows.stride(-1) == 1 and all(step and step % unit == 0 for step in [*steps, rows.storage_offset() or unit]):
        return rows
    return rows.clone(memory_format=torch.contiguous_format)


def _empty(x_BND: Tensor, u_GXD: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Return an empty (B, X, width), in the memory order that a matrix product per query needs."""
    (n_images, *_), (n_groups, n_queries, _) = x_BND.shape, u_GXD.shape
    if n_groups == 1:
        return x_BND.new_empty(n_queries, n_images, width, dtype=dtype).transpose(0, 1)
    return x_BND.new_empty(n_images, n_queries, width, dtype=dtype)


def _make_outputs(
    x_BND: Tensor, u_GXD: Tensor, scale_BN: Tensor | None, mean_BN: Tensor | None
) -> tuple[Tensor, Tensor]:
    z_BXD = _empty(x_BND, u_GXD, x_BND.shape[2], x_BND.dtype if scale_BN is None else torch.float32)
    return z_BXD, x_BND.new_empty(z_BXD.shape[:2], dtype=torch.float32)


def _attend(x_BND: Tensor, u_GXD: Tensor, scale_BN: Tensor | None, mean_BN: Tensor | None) -> tuple[Tensor, Tensor]:
    from .fused_launch import Attention

    z_BXD, lse_BX = _make_outputs(x_BND, u_GXD, scale_BN, mean_BN)
    Attention(x_BND, u_GXD, scale_BN, mean_BN).forward(z_BXD, lse_BX)
    return z_BXD, lse_BX


def _make_scores_gradient(x_BND: Tensor, u_GXD: Tensor, *_: Tensor | None) -> Tensor:
    return _empty(x_BND, u_GXD, x_BND.shape[1], x_BND.dtype)


def _attend_scores_backward(
    x_BND: Tensor,
    u_GXD: Tensor,
    scale_BN: Tensor | None,
    mean_BN: Tensor | None,
    lse_BX: Tensor,
    g_BXD: Tensor,
    h_BX: Tensor | None,
) -> Tensor:
    from .fused_launch import Attention

    ds_BXN = _make_scores_gradient(x_BND, u_GXD)
    Attention(x_BND, u_GXD, scale_BN, mean_BN).backward(lse_BX, g_BXD, h_BX, ds_BXN)
    return ds_BXN


def _keep(ctx: Any, inputs: tuple[Tensor | None, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, g_BXD: Tensor | None, h_BX: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return the gradient of u only, from the gradients of z and of the log-sum-exp."""
    x_BND, u_GXD, scale_BN, mean_BN, lse_BX = ctx.saved_tensors
    if g_BXD is None:
        g_BXD = x_BND.new_zeros(*lse_BX.shape, x_BND.shape[2])
    g_BXD = aligned(g_BXD)
    n_images, n_tokens, _ = x_BND.shape
    n_queries = max(1, SCORES_BYTES // (x_BND.itemsize * n_images * n_tokens))
    du_GXD = []
    for start in range(0, u_GXD.shape[1], n_queries):
        part = slice(start, start + n_queries)
        h_part = None if h_BX is None else h_BX[:, part]
        ds_BXN = torch.ops.tokenprobe.attend_scores_backward(
            x_BND, u_GXD[:, part], scale_BN, mean_BN, lse_BX[:, part], g_BXD[:, part], h_part
        )
        du_GXD.append(_over_images(ds_BXN, x_BND) if len(u_GXD) == 1 else ds_BXN @ x_BND)
        del ds_BXN
    return None, torch.cat(du_GXD, dim=1), None, None


def _over_images(ds_BXN: Tensor, x_BND: Tensor) -> Tensor:
    """Return the gradient of queries that all images share, (1, X, D)."""
    du_XD: Tensor = ds_BXN.transpose(0, 1).flatten(1) @ x_BND.flatten(0, 1)
    return du_XD[None]


for _name, _run, _fake in (
    ("attend", _attend, _make_outputs),
    ("attend_scores_backward", _attend_scores_backward, _make_scores_gradient),
):
    LIBRARY.impl(_name, _run, "CompositeExplicitAutograd")  # any device: Triton's interpreter runs on CPUs
    torch.library.register_fake(f"tokenprobe::{_name}", _fake, lib=LIBRARY)
torch.library.register_autograd("tokenprobe::attend", _gradient, setup_context=_keep, lib=LIBRARY)
