r"""Attentive layer fusion (arXiv 2601.09322, section 3): a query attends over class tokens and means of many layers.

    a_m = softmax_n(q_m · k_nm / sqrt(K)),   q = W_q LN_q(c),   k_n = W_k LN_k(x_n),   v_n = W_v LN_v(x_n),   K = 2·⌊D/heads⌋
    y = W_p [sum_n a_mn v_nm]_m + b_p

with one learned query c, ε = 1e-5, and maps m of K channels each; W_q, W_k, W_v have no bias. The tokens x_n are the
class token and the mean of every stacked layer. The BatchNorm of the head has ε = 1e-5 and weights of its own.

Both LayerNorms of the tokens share statistics: LN_v(x_n) = γ ⊙ r_n C x_n + β, with r_n and C of `folded.py`. So v folds as

    sum_n a_n v_n = (W_v diag(γ) C) (sum_n a_n r_n x_n) + W_v β sum_n a_n

which acts on the weights, once per step, instead of one vector per image and map. Attention dropout (in training) makes
the sum of the weights differ from 1.
"""  # noqa: E501

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Generator, Tensor

from ...errors import InputError
from .attentive import QueryPooling, module_names
from .dropout import SeededDropout
from .folded import aggregate, attend_values, centred, fold_keys, project_blocks
from .initial import linear_initial, norm_initial, normal_initial
from .pooling import TOKENS, ClassifierNorm, PoolingSettings

EPS = 1e-5
PER_LAYER = {"cls": 1, "mean": 1, "cls+mean": 2}
"""Tokens per layer, by the setting `tokens`. For patch tokens the default is that of class tokens and means."""


@dataclass(frozen=True)
class ALFSettings(PoolingSettings):
    """Settings of attentive layer fusion."""

    heads: Annotated[int, "Attention maps, at most D; 0 gives one per token, or two per layer for patch tokens."] = 0
    dropout: Annotated[float, "Part of the attention weights that training drops, below 1."] = 0.0
    tokens: Annotated[str, TOKENS] = "cls+mean"


class AttentiveLayerFusion(QueryPooling):
    """Multi-head cross-attention of one learned query over tokens of stacked layers.

    Parameters, for H cells and E = heads · K: `query` (H, 1, D); `q_weight`, `k_weight`, `v_weight` (H, E, D);
    `proj_weight` (H, D, E) and `proj_bias` (H, D); weights and biases of the LayerNorms `norm_q`, `norm_k`, `norm_v`.
    """

    name = "alf"
    title = "ALF"
    summary = "A learned query attends over class tokens and means of many layers."
    source = "arXiv 2601.09322, section 3"
    settings = ALFSettings()
    token_eps: ClassVar[float | None] = EPS
    classifier_norm = ClassifierNorm(eps=1e-5, affine=True)
    reference_names: Mapping[str, str] = {
        "query_token": "query",
        **module_names({f"attn_block.cross_attn.{name}": name for name in ("q", "k", "v")}, ["weight"]),
        **module_names({"attn_block.cross_attn.proj": "proj"}),
        **module_names({f"attn_block.norm_{name}": f"norm_{name}" for name in ("q", "k", "v")}),
    }
    query: Tensor
    k_weight: Tensor
    v_weight: Tensor
    norm_k_weight: Tensor
    norm_v_weight: Tensor
    norm_v_bias: Tensor

    def set_up(self) -> None:
        """See `Pooling.set_up`."""
        heads, dropout = self.settings.heads, self.settings.dropout
        self.heads = heads or PER_LAYER.get(self.settings.tokens, 2) * self.n_layers
        if not 1 <= self.heads <= self.dim:
            raise InputError(f"alf with {self.heads} heads on tokens {self.dim} wide: expected 1 to {self.dim}")
        if not 0 <= dropout < 1:
            raise InputError(f"alf with dropout={dropout}: expected 0 or more, and less than 1")

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        dim, width = self.dim, self.heads * 2 * (self.dim // self.heads)
        drawn: dict[str, Tensor] = {}
        for name in ("norm_q", "norm_k", "norm_v"):
            drawn |= norm_initial(name, dim)
        for name in ("q", "k", "v"):
            drawn |= linear_initial(name, width, dim, generator, bias=False)
        drawn |= linear_initial("proj", dim, width, generator)
        return drawn | {"query": normal_initial(1, dim, std=0.02, generator=generator)}

    def make_buffers(self) -> None:
        """See `Pooling.make_buffers`."""
        self.dropout = SeededDropout(self.settings.dropout, self.seeds)

    def begin_step(self, step: int) -> None:
        """See `Pooling.begin_step`."""
        self.dropout.begin_step(step)

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        value_HED = centred(self.v_weight * self.norm_v_weight[:, None])
        constant_HE = (self.v_weight * self.norm_v_bias[:, None]).sum(-1)
        if self.training and self.settings.dropout:
            maps_BHMN = self.dropout(self.maps(x_BND))
            values_HBE = project_blocks(aggregate(x_BND, maps_BHMN, self._token_rstd(x_BND), centre=False), value_HED)
            sums_HBM = maps_BHMN.sum(-1).transpose(0, 1)
            per_map_HBE = sums_HBM.repeat_interleave(values_HBE.shape[2] // self.heads, dim=2)
            values_HBE = values_HBE + per_map_HBE * constant_HE[:, None]
        else:
            u_BHMD, rstd_BN = self.folded_queries(x_BND), self._token_rstd(x_BND)
            values_HBE = attend_values(x_BND, u_BHMD, value_HED, rstd_BN) + constant_HE[:, None]
        return self.linear("proj", values_HBE).transpose(0, 1)

    def folded_queries(self, x_BND: Tensor) -> Tensor:
        """See `QueryPooling.folded_queries`."""
        q_H1E = self.linear("q", self.norm("norm_q", self.query, EPS))
        return fold_keys(q_H1E, self.k_weight, self.heads) * self.norm_k_weight[:, None]
