r"""CAE's attentive probing (arXiv 2202.03026, section 4; a cross-attention block without an MLP).

    q = W_q LN_q(z),   k = W_k LN_k(x),   v = W_v LN_v(x),   a_h = softmax_n(q_h . k_hn / sqrt(D/heads))
    y = W_p [sum_n a_hn v_hn]_h + b_p

with one learned query z, ε = 1e-5. z starts at 0, so attention starts uniform. The reference's module has one
more LayerNorm, which it never uses; it is kept, without gradients, so that weights and counts agree.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from .attentive import QueryPooling, module_names
from .folded import fold_keys, project_blocks
from .initial import linear_initial, norm_initial
from .pooling import MAPS, TOKENS, PoolingSettings

EPS = 1e-5


@dataclass(frozen=True)
class CAESettings(PoolingSettings):
    """Settings of CAE's pooling."""

    heads: Annotated[int, MAPS] = 8
    tokens: Annotated[str, TOKENS] = "patch"


class CAEPooling(QueryPooling):
    """Multi-head cross-attention with one query over tokens normalised apart for keys and for values.

    Parameters, for H cells: `query` (H, 1, D); `q_weight`, `k_weight`, `v_weight` (H, D, D); weight and bias of
    `proj`, and of the LayerNorms `norm_q`, `norm_k`, `norm_v` and `norm_unused`.
    """

    name = "cae"
    title = "CAE"
    summary = "A learned query attends over tokens; keys and values have one LayerNorm each."
    source = "arXiv 2202.03026, section 4"
    settings = CAESettings()
    token_eps = EPS
    reference_names: Mapping[str, str] = {
        "query_token": "query",
        **module_names({f"cross_attn.{name}": name for name in "qkv"}, ["weight"]),
        **module_names({"cross_attn.proj": "proj", "norm2_cross": "norm_unused"}),
        **module_names({f"norm1_{name}": f"norm_{name}" for name in "qkv"}),
    }
    query: Tensor
    k_weight: Tensor
    v_weight: Tensor
    norm_k_weight: Tensor

    def set_up(self) -> None:
        """See `Pooling.set_up`."""
        self.check_heads(self.settings.heads)

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        dim = self.dim
        drawn = {"query": torch.zeros(1, dim)}
        for name in "qkv":
            drawn |= linear_initial(name, dim, dim, generator, bias=False) | norm_initial(f"norm_{name}", dim)
        return drawn | linear_initial("proj", dim, dim, generator) | norm_initial("norm_unused", dim)

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        z_BHMD = self.affine("norm_v", self.attended(x_BND))
        return self.linear("proj", project_blocks(z_BHMD, self.v_weight)).transpose(0, 1)

    def folded_queries(self, x_BND: Tensor) -> Tensor:
        """See `QueryPooling.folded_queries`."""
        q_H1D = self.linear("q", self.norm("norm_q", self.query, EPS))
        return fold_keys(q_H1D, self.k_weight, self.settings.heads) * self.norm_k_weight[:, None]
