r"""V-JEPA's attentive pooler (arXiv 2404.08471, section 5; `AttentivePooler` of its code).

    x̂ = LN(x),   q = W_q z + b_q,   [k; v] = W_kv x̂ + b_kv,   a_h = softmax_n(q_h . k_hn / sqrt(D/heads))
    y0 = z + W_p [sum_n a_hn v_hn]_h + b_p,   y = y0 + MLP(LN(y0))

with one learned query z that is not normalised; ε = 1e-5, an MLP with GELU.

With depth d > 1, d - 1 pre-norm transformer blocks go before it, as in V-JEPA 2 (arXiv 2506.09985, "attentive probe"):

    x <- x + W_o Attn(LN(x)) + b_o,   x <- x + MLP(LN(x))

Every cell then has tokens of its own, x (H, B, N, D). Nothing folds in the blocks; the cross-attention still does.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...errors import InputError
from .attentive import QueryPooling, layer_norm, module_names
from .folded import fold_keys, project_blocks, softmax
from .initial import norm_initial, normal_initial
from .pooling import MAPS, MLP_RATIO, NORM, TOKENS, PoolingSettings

EPS, STD = 1e-5, 0.02
BLOCK = "cross_attention_block"
OF_BLOCK = {
    "norm1": "norm1", "attn.qkv": "qkv", "attn.proj": "proj", "norm2": "norm2", "mlp.fc1": "fc1", "mlp.fc2": "fc2",
}  # fmt: skip
"""Modules of a self-attention block, and our names of them."""


@dataclass(frozen=True)
class JEPASettings(PoolingSettings):
    """Settings of V-JEPA's pooler."""

    heads: Annotated[int, MAPS] = 16
    mlp_ratio: Annotated[int, MLP_RATIO] = 4
    depth: Annotated[int, "Blocks: the cross-attention, and self-attention before it if there are more than 1."] = 1
    norm: Annotated[str, NORM] = "batch"
    tokens: Annotated[str, TOKENS] = "patch"


class JEPAPooling(QueryPooling):
    """A pre-norm cross-attention block with one query, residual connections and an MLP.

    Parameters, for H cells: `query` (H, 1, D); weights and biases of `q` (D to D), `kv` (D to 2D), `proj` (D to
    D), `fc1` (D to mlp_ratio·D), `fc2`, and of the LayerNorms `norm1` and `norm2`. Those of self-attention block i,
    from 0, begin with `block{i}_`: `qkv` (D to 3D), `proj`, `fc1`, `fc2`, `norm1`, `norm2`.

    A map is the attention of the query over the last block's tokens.
    """

    name = "jepa"
    title = "V-JEPA"
    summary = "A learned query attends over layer-normalised tokens; then an MLP."
    source = "arXiv 2404.08471, section 5"
    settings = JEPASettings()
    token_eps = EPS
    reference_names: Mapping[str, str] = {
        "query_tokens": "query",
        **module_names(
            {
                f"{BLOCK}.norm1": "norm1",
                f"{BLOCK}.xattn.q": "q",
                f"{BLOCK}.xattn.kv": "kv",
                f"{BLOCK}.xattn.proj": "proj",
                f"{BLOCK}.norm2": "norm2",
                f"{BLOCK}.mlp.fc1": "fc1",
                f"{BLOCK}.mlp.fc2": "fc2",
            }
        ),
    }
    query: Tensor
    kv_weight: Tensor
    kv_bias: Tensor
    norm1_weight: Tensor

    def set_up(self) -> None:
        """See `Pooling.set_up`."""
        self.check_heads(self.settings.heads)
        self.check_mlp(self.settings.mlp_ratio)
        if self.settings.depth < 1:
            raise InputError(f"jepa with depth={self.settings.depth}: expected 1 or more")
        self.n_blocks = self.settings.depth - 1
        for index in range(self.n_blocks):
            names = {theirs: f"block{index}_{ours}" for theirs, ours in OF_BLOCK.items()}
            modules = {f"blocks.{index}.{theirs}": ours for theirs, ours in names.items()}
            self.reference_names = {**self.reference_names, **module_names(modules)}

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`. Weights that write to the residual of block i are divided by sqrt(2 i), i from 1.

        The cross-attention counts as the block before it, as published.
        """
        dim = self.dim
        drawn = {"query": normal_initial(1, dim, std=STD, generator=generator)}
        drawn |= self._initial_block("", {"q": dim, "kv": 2 * dim}, max(1, self.n_blocks), generator)
        for index in range(self.n_blocks):
            drawn |= self._initial_block(f"block{index}_", {"qkv": 3 * dim}, index + 1, generator)
        return drawn

    def _initial_block(
        self, prefix: str, maps: Mapping[str, int], number: int, generator: Generator | None
    ) -> dict[str, Tensor]:
        """Draw the parameters of one block, whose attention has `maps` from D to so many channels."""
        dim, hidden = self.dim, self.dim * self.settings.mlp_ratio
        sizes = {name: (width, dim) for name, width in maps.items()}
        sizes |= {"proj": (dim, dim), "fc1": (hidden, dim), "fc2": (dim, hidden)}
        drawn: dict[str, Tensor] = {}
        for name, size in sizes.items():
            std = STD / (2 * number) ** 0.5 if name in ("proj", "fc2") else STD
            drawn[f"{prefix}{name}_weight"] = normal_initial(*size, std=std, generator=generator)
            drawn[f"{prefix}{name}_bias"] = torch.zeros(size[0])
        return drawn | norm_initial(f"{prefix}norm1", dim) | norm_initial(f"{prefix}norm2", dim)

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        z_BHMD = self.affine("norm1", self._attended_after_blocks(x_BND) if self.n_blocks else self.attended(x_BND))
        values_HBD = project_blocks(z_BHMD, self.kv_weight[:, self.dim :]) + self.kv_bias[:, None, self.dim :]
        y_HBD = self.query + self.linear("proj", values_HBD)
        return (y_HBD + self.mlp(self.norm("norm2", y_HBD, EPS))).transpose(0, 1)

    def folded_queries(self, x_BND: Tensor) -> Tensor:
        """See `QueryPooling.folded_queries`."""
        q_H1D = self.linear("q", self.query)
        return fold_keys(q_H1D, self.kv_weight[:, : self.dim], self.settings.heads) * self.norm1_weight[:, None]

    def maps(self, x_BND: Tensor) -> Tensor:
        """See `AttentivePooling.maps`."""
        return self._maps_over(self._normed_after_blocks(x_BND)) if self.n_blocks else super().maps(x_BND)

    def _attended_after_blocks(self, x_BND: Tensor) -> Tensor:
        """Return what `attended` does, (B, H, M, D), after the self-attention blocks."""
        normed_HBND = self._normed_after_blocks(x_BND)
        return self._maps_over(normed_HBND) @ normed_HBND.transpose(0, 1)

    def _maps_over(self, normed_HBND: Tensor) -> Tensor:
        """Return the maps (B, H, M, N) over tokens that differ between cells."""
        u_1HMD = self.folded_queries(normed_HBND)
        return softmax(u_1HMD @ normed_HBND.permute(1, 0, 3, 2))

    def _normed_after_blocks(self, x_BND: Tensor) -> Tensor:
        """Return the last block's tokens after a LayerNorm without weight and bias, (H, B, N, D)."""
        n_images = x_BND.shape[0]
        x_HXD = x_BND.to(torch.promote_types(x_BND.dtype, torch.float32)).flatten(0, 1)[None]  # X = B·N, first H = 1
        for index in range(self.n_blocks):
            x_HXD = self._block(f"block{index}_", x_HXD, n_images)
        normed_HBND: Tensor = layer_norm(x_HXD, EPS).unflatten(1, (n_images, -1))
        return normed_HBND

    def _block(self, prefix: str, x_HXD: Tensor, n_images: int) -> Tensor:
        """Apply a pre-norm block of self-attention and MLP to the tokens of each image."""
        heads = self.settings.heads
        qkv_HXE = self.linear(f"{prefix}qkv", self.norm(f"{prefix}norm1", x_HXD, EPS))
        parts = qkv_HXE.unflatten(1, (n_images, -1)).unflatten(3, (3, heads, self.dim // heads))
        query, key, value = parts.permute(3, 1, 0, 4, 2, 5).flatten(1, 2)  # each (B·H, M, N, D/M)
        mixed_BHMNK = F.scaled_dot_product_attention(query, key, value).unflatten(0, (n_images, -1))
        x_HXD = x_HXD + self.linear(f"{prefix}proj", mixed_BHMNK.permute(1, 0, 3, 2, 4).flatten(3).flatten(1, 2))
        hidden_HXK = F.gelu(self.linear(f"{prefix}fc1", self.norm(f"{prefix}norm2", x_HXD, EPS)))
        out_HXD: Tensor = x_HXD + self.linear(f"{prefix}fc2", hidden_HXK)
        return out_HXD
