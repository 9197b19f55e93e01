r"""CoCa's attentional pooling (arXiv 2205.01917, section 3.2), as in lucidrains' `CoCa-pytorch`.

    q = W_q LN(z_0) in heads of 64,   [k; v] = W_kv x, 64 wide and the same for all heads
    a_h = softmax_n(q_h . k_n / 8),   y = W_o [sum_n a_hn v_n]_h

without biases; LN has a weight and no bias, ε = 1e-5. The published pooling has 196 queries and returns
only the first one's output. So only that one is computed; the others get no gradient. They are kept so that weights,
counts and LARS's norm of the query bank match the published ones. `queries=1` is the same head without them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from ...errors import InputError
from .attentive import QueryPooling, layer_norm, module_names
from .folded import fold_keys
from .initial import linear_initial, normal_initial
from .pooling import TOKENS, PoolingSettings
from .products import apply_linear

EPS, HEAD_WIDTH = 1e-5, 64


@dataclass(frozen=True)
class CoCaSettings(PoolingSettings):
    """Settings of CoCa's pooling."""

    heads: Annotated[int, "Attention maps, 64 channels each; 1 or more."] = 8
    queries: Annotated[int, "Queries in the bank, of which the first is read; 1 or more."] = 196
    tokens: Annotated[str, TOKENS] = "patch"


class CoCaPooling(QueryPooling):
    """Multi-query attention (one key and value for all heads) that reads one query.

    Parameters, for H cells: `query_bank` (H, Q, D), `norm_weight` (H, D), `q_weight` (H, 64·heads, D), `kv_weight`
    (H, 128, D), `proj_weight` (H, D, 64·heads).
    """

    name = "coca"
    title = "CoCa pooling"
    summary = "A learned query attends with one key and value for all heads."
    source = "arXiv 2205.01917, section 3.2"
    settings = CoCaSettings()
    reference_names: Mapping[str, str] = {
        "img_queries": "query_bank",
        "norm.gamma": "norm_weight",
        **module_names({"to_q": "q", "to_kv": "kv", "to_out": "proj"}, ["weight"]),
    }
    reference_buffers: Mapping[str, str | None] = {"norm.beta": None}  # always zero
    query_bank: Tensor
    norm_weight: Tensor
    kv_weight: Tensor

    def set_up(self) -> None:
        """See `Pooling.set_up`."""
        heads, queries = self.settings.heads, self.settings.queries
        if heads < 1 or queries < 1:
            raise InputError(f"coca with heads={heads}, queries={queries}: expected 1 or more of each")

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        dim, inner = self.dim, HEAD_WIDTH * self.settings.heads
        return {
            "query_bank": normal_initial(self.settings.queries, dim, std=1, generator=generator),
            "norm_weight": torch.ones(dim),
            **linear_initial("q", inner, dim, generator, bias=False),
            **linear_initial("kv", 2 * HEAD_WIDTH, dim, generator, bias=False),
            **linear_initial("proj", dim, inner, generator, bias=False),
        }

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        z_BHMD = self.attended(x_BND)
        z_HXD = z_BHMD.transpose(0, 1).flatten(1, 2)  # X = B·M: the heads share one value map
        v_HXK = apply_linear(z_HXD, self.kv_weight[:, HEAD_WIDTH:])
        return self.linear("proj", v_HXK.unflatten(1, (-1, self.settings.heads)).flatten(2)).transpose(0, 1)

    def folded_queries(self, x_BND: Tensor) -> Tensor:
        """See `QueryPooling.folded_queries`."""
        first_H1D = layer_norm(self.query_bank[:, :1], EPS) * self.norm_weight[:, None]
        q_HMK = self.linear("q", first_H1D).unflatten(2, (self.settings.heads, -1))[:, 0]
        return fold_keys(q_HMK, self.kv_weight[:, :HEAD_WIDTH], 1).transpose(0, 2)  # the heads share one key map
