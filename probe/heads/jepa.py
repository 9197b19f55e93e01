r"""V-JEPA's attentive pooler (arXiv 2404.08471, section 5; `AttentivePooler` of its code, depth 1).

    x̂ = LN(x),   q = W_q z + b_q,   [k; v] = W_kv x̂ + b_kv,   a_h = softmax_n(q_h . k_hn / sqrt(D/heads))
    y0 = z + W_p [sum_n a_hn v_hn]_h + b_p,   y = y0 + MLP(LN(y0))

with one learned query z that is not normalised; ε = 1e-5, an MLP with GELU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from .attentive import QueryPooling, module_names
from .folded import fold_keys, project_blocks
from .initial import norm_initial, normal_initial
from .pooling import MAPS, MLP_RATIO, TOKENS, PoolingSettings

EPS, STD = 1e-5, 0.02
BLOCK = "cross_attention_block"


@dataclass(frozen=True)
class JEPASettings(PoolingSettings):
    """Settings of V-JEPA's pooler."""

    heads: Annotated[int, MAPS] = 16
    mlp_ratio: Annotated[int, MLP_RATIO] = 4
    tokens: Annotated[str, TOKENS] = "patch"


class JEPAPooling(QueryPooling):
    """A pre-norm cross-attention block with one query, residual connections and an MLP.

    Parameters, for H cells: `query` (H, 1, D); weights and biases of `q` (D to D), `kv` (D to 2D), `proj` (D to
    D), `fc1` (D to mlp_ratio·D), `fc2`, and of the LayerNorms `norm1` and `norm2`.
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

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`. Weights that write to the residual are divided by the square root of 2."""
        dim, hidden = self.dim, self.dim * self.settings.mlp_ratio
        sizes = {"q": (dim, dim), "kv": (2 * dim, dim), "proj": (dim, dim), "fc1": (hidden, dim), "fc2": (dim, hidden)}
        drawn = {"query": normal_initial(1, dim, std=STD, generator=generator)}
        for name, size in sizes.items():
            std = STD / 2**0.5 if name in ("proj", "fc2") else STD
            drawn[f"{name}_weight"] = normal_initial(*size, std=std, generator=generator)
            drawn[f"{name}_bias"] = torch.zeros(size[0])
        return drawn | norm_initial("norm1", dim) | norm_initial("norm2", dim)

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        z_BHMD = self.affine("norm1", self.attended(x_BND))
        values_HBD = project_blocks(z_BHMD, self.kv_weight[:, self.dim :]) + self.kv_bias[:, None, self.dim :]
        y_HBD = self.query + self.linear("proj", values_HBD)
        return (y_HBD + self.mlp(self.norm("norm2", y_HBD, EPS))).transpose(0, 1)

    def folded_queries(self, x_BND: Tensor) -> Tensor:
        """See `QueryPooling.folded_queries`."""
        q_H1D = self.linear("q", self.query)
        return fold_keys(q_H1D, self.kv_weight[:, : self.dim], self.settings.heads) * self.norm1_weight[:, None]
