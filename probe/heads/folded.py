r"""Attention pooling without any matrix product per token.

One map of an attentive pooling has a query q, and reads keys and values of tokens t_n = γ ⊙ x_n + β. The x_n are the
tokens, normalised or not:

    a_n = softmax_n(q · k_n / s),  k_n = W_k t_n + b_k,      o = sum_n a_n v_n,  v_n = W_v t_n + b_v

Computed directly, each token needs two products with a D×d matrix. Both products can act on a few vectors instead. This
is exact, because W_k and W_v are linear and the weights a_n sum to 1:

    q · k_n / s = u · x_n + const,    u = γ ⊙ W_kᵀ q / s      the query takes the key map; terms that are
                                                              equal for all n (β, b_k) drop out of the softmax
    o = W_v (γ ⊙ z + β) + b_v,        z = sum_n a_n x_n       the value map acts on the aggregate

So a map costs 2 N D multiplications, and one D×d product per image. LayerNorm without γ and β is r_n C x_n, with
r_n = 1/sqrt(var_n + ε) and C = I − 11ᵀ/D the symmetric map that subtracts the mean over channels. C moves likewise:

    u · (r_n C x_n) = r_n (C u) · x_n,          sum_n a_n r_n C x_n = C sum_n (a_n r_n) x_n

and only the scalars r_n of the normalisation remain, the same for all cells. No normalised token is ever written.

    B images (1 if they share a query), N tokens, D width, H cells, M maps per cell, O output
"""

import torch
from torch import Tensor

from . import blocked, fused
from .products import apply_linear


def fold_keys(q_HBO: Tensor, key_HOD: Tensor, n_maps: int) -> Tensor:
    """Return u = W_kᵀ q / sqrt(O/M), (B, H, M, D): map m owns the m-th block of rows of q and W_k."""
    q_XBK = q_HBO.unflatten(2, (n_maps, -1)).transpose(1, 2).flatten(0, 1)  # X = H·M, K = O/M
    u_XBD = torch.bmm(q_XBK, key_HOD.unflatten(1, (n_maps, -1)).flatten(0, 1)) * q_XBK.shape[2] ** -0.5
    u_BHMD: Tensor = u_XBD.unflatten(0, (-1, n_maps)).movedim(2, 0)
    return u_BHMD


def project_blocks(z_BHMD: Tensor, value_HOD: Tensor) -> Tensor:
    """Return W_v z, (H, B, O): map m owns the m-th block of rows of W_v; the results are concatenated."""
    n_maps = z_BHMD.shape[2]
    value_XKD = value_HOD.unflatten(1, (n_maps, -1)).flatten(0, 1)
    return _joined(apply_linear(z_BHMD.flatten(1, 2).transpose(0, 1), value_XKD, by_image=True), n_maps)


def attend(x_BND: Tensor, u_BHMD: Tensor, rstd_BN: Tensor | None = None) -> Tensor:
    """Return z, (B, H, M, D), for maps that are the softmax over tokens of `logits`.

    A GPU writes no map (`fused.py`), unless the tokens need a gradient.

    Args:
        x_BND: tokens.
        u_BHMD: folded queries; B is 1 if they are the same for all images.
        rstd_BN: of `token_rstd`: attend over layer-normalised tokens.
    """
    if fused.can_fuse(x_BND, u_BHMD):
        return fused.attend(x_BND, u_BHMD if rstd_BN is None else centred(u_BHMD), rstd_BN)[0]
    return attend_unfused(x_BND, u_BHMD, rstd_BN)


def attend_values(x_BND: Tensor, u_BHMD: Tensor, value_HOD: Tensor, rstd_BN: Tensor | None = None) -> Tensor:
    """Return W_v z, (H, B, O): `project_blocks` of `attend`.

    Args:
        x_BND: as for `attend`.
        u_BHMD: likewise.
        value_HOD: W_v; with `rstd_BN`, centred: it does C again.
        rstd_BN: as for `attend`.
    """
    if fused.can_fuse(x_BND, u_BHMD) or not _can_block(x_BND):
        return project_blocks(attend(x_BND, u_BHMD, rstd_BN), value_HOD)
    value_XKD = value_HOD.unflatten(1, (u_BHMD.shape[2], -1)).flatten(0, 1)
    y_XBK = blocked.attend_values(x_BND, _queries(u_BHMD, rstd_BN), value_XKD, rstd_BN)
    return _joined(y_XBK, u_BHMD.shape[2])


def attend_beside(x_BND: Tensor, u_BHMD: Tensor, rstd_BN: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return z, and the log-sum-exp of the logits, (B, H, M), for a softmax over the tokens and one more row.

    For one more row y with the logit s, the tokens' weight is sigmoid(lse − s), and z' = sigmoid(lse − s) z +
    sigmoid(s − lse) y.

    Args:
        x_BND: as for `attend`.
        u_BHMD: likewise.
        rstd_BN: likewise.
    """
    if fused.can_fuse(x_BND, u_BHMD):
        return fused.attend(x_BND, u_BHMD if rstd_BN is None else centred(u_BHMD), rstd_BN)
    scores = logits(x_BND, u_BHMD, rstd_BN)
    lse_BHM = scores.to(torch.promote_types(scores.dtype, torch.float32)).logsumexp(-1)
    return aggregate(x_BND, softmax(scores), rstd_BN), lse_BHM


def attend_unfused(x_BND: Tensor, u_BHMD: Tensor, rstd_BN: Tensor | None = None) -> Tensor:
    """Return the same z from torch's own operations."""
    if not _can_block(x_BND):
        scores = logits(x_BND, u_BHMD, rstd_BN)
        return aggregate(x_BND, scores.softmax(-1, dtype=scores.dtype), rstd_BN)
    z_BXD = blocked.attend(x_BND, _queries(u_BHMD, rstd_BN), rstd_BN)
    z_BHMD: Tensor = z_BXD.unflatten(1, u_BHMD.shape[1:3])
    return z_BHMD if rstd_BN is None else centred(z_BHMD)


def _can_block(x_BND: Tensor) -> bool:
    """Return whether `blocked.py` may be used. Blocks give tokens no gradient, and fix the number of images."""
    return not (torch.compiler.is_exporting() or x_BND.requires_grad)


def _queries(u_BHMD: Tensor, rstd_BN: Tensor | None) -> Tensor:
    """Return the queries of all cells, (B, X, D); over layer-normalised tokens, C u."""
    return (u_BHMD if rstd_BN is None else centred(u_BHMD)).flatten(1, 2)


def _joined(y_XBK: Tensor, n_maps: int) -> Tensor:
    """Return the outputs of a cell's maps beside each other, (H, B, O)."""
    y_HBO: Tensor = y_XBK.unflatten(0, (-1, n_maps)).transpose(1, 2).flatten(2)
    return y_HBO


def logits(x_BND: Tensor, u_BHMD: Tensor, rstd_BN: Tensor | None = None) -> Tensor:
    """Return u · x_n, (B, H, M, N); over layer-normalised tokens if their `rstd_BN` is given."""
    u_BXD = _queries(u_BHMD, rstd_BN)
    x_BDN = x_BND.transpose(1, 2)
    found_BXN = u_BXD[0] @ x_BDN if u_BXD.shape[0] == 1 else u_BXD @ x_BDN
    found_BHMN: Tensor = found_BXN.unflatten(1, u_BHMD.shape[1:3])
    return found_BHMN if rstd_BN is None else found_BHMN * rstd_BN[:, None, None]


def softmax(logits_BHMN: Tensor) -> Tensor:
    """Return the softmax over tokens, in at least float32."""
    return logits_BHMN.softmax(-1, dtype=torch.promote_types(logits_BHMN.dtype, torch.float32))


def aggregate(x_BND: Tensor, maps_BHMN: Tensor, rstd_BN: Tensor | None = None, *, centre: bool = True) -> Tensor:
    """Return sum_n a_n x_n, (B, H, M, D); of layer-normalised tokens if their `rstd_BN` is given.

    Without `centre`, C is left out, which a value map W C does again: it passes over W instead of z.
    """
    weights = maps_BHMN if rstd_BN is None else maps_BHMN * rstd_BN[:, None, None]
    z_BXD = weights.flatten(1, 2).to(x_BND.dtype) @ x_BND
    z_BHMD: Tensor = z_BXD.unflatten(1, maps_BHMN.shape[1:3])
    return centred(z_BHMD) if rstd_BN is not None and centre else z_BHMD


def token_rstd(x_BND: Tensor, eps: float) -> Tensor:
    """Return 1 / sqrt(var + eps) of each token over its channels, (B, N), in at least float32.

    The variance comes from the norm and the mean: on a CPU this is nine times as fast as torch.var. A token's mean is
    small beside its deviation, so little cancels. Rounding must not make the variance of equal channels negative.
    """
    dtype = torch.promote_types(x_BND.dtype, torch.float32)
    square: Tensor = torch.linalg.vector_norm(x_BND, dim=-1, dtype=dtype).square() / x_BND.shape[-1]
    var = (square - x_BND.mean(-1, dtype=dtype).square()).clamp_min(0)
    return (var + eps).rsqrt()


def centred(values: Tensor) -> Tensor:
    """Return C v: subtract the mean over the last axis, in at least float32."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    found: Tensor = values - values.mean(-1, keepdim=True)
    return found
