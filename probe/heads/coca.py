r"""CoCa's attentional pooling (arXiv 2205.01917, section 3.2), as in lucidrains' `CoCa-pytorch`.

    q = W_q LN(z_0) in heads of 64,   [k; v] = W_kv x, 64 wide and the same for all heads
    a_h = softmax_n(q_h . k_n / 8),   y = W_o [sum_n a_hn v_n]_h

without biases; LN has a weight and no bias, ε = 1e-5. The published pooling has 196 queries and gives the first
one's output: only that one is computed, and the others get no gradient. They are kept, because weights, counts
and LARS's norm of the whole query bank are then the published ones; `queries=1` is the same head without them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from ...errors import InputError
from .attentive import AttentivePooling, apply_linear, layer_norm, module_names
from .folded import attend, fold_keys, logits, softmax
from .initial import linear_initial, normal_initial

EPS, HEAD_WIDTH = 1e-5, 64


class CoCaPooling(AttentivePooling):
    """Multi-query attention (one key and value for all heads) with one query that is read.

    Parameters, for H cells: `query_bank` (H, Q, D), `norm_weight` (H, D), `q_weight` (H, 64·heads, D), `kv_weight`
    (H, 128, D), `proj_weight` (H, D, 64·heads).
    """

    name = "coca"
    defaults: ClassVar[dict[str, Any]] = {"heads": 8, "queries": 196, "tokens": "patch"}
    reference_names: Mapping[str, str] = {
        "img_queries": "query_bank",
        "norm.gamma": "norm_weight",
        **module_names({"to_q": "q", "to_kv": "kv", "to_out": "proj"}, ["weight"]),
    }
    reference_buffers: Mapping[str, str | None] = {"norm.beta": None}  # always zero
    query_bank: Tensor
    norm_weight: Tensor
    kv_weight: Tensor

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int],
        *,
        heads: int = 8,
        queries: int = 196,
        tokens: str = "patch",
        cells: int | None = None,
        generators: Sequence[Generator | None] | None = None,
    ) -> None:
        """Draw the parameters; the arguments are `EfficientProbing`'s, and `heads` attention maps 64 wide.

        Raises:
            InputError: heads or queries is below 1; unknown `tokens`.
        """
        super().__init__(dim, cells, tokens)
        if heads < 1 or queries < 1:
            raise InputError(f"coca with heads={heads}, queries={queries}: expected 1 or more of each")
        self.heads, self.n_queries = heads, queries
        self.draw_cells(generators)

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        dim, inner = self.dim, HEAD_WIDTH * self.heads
        return {
            "query_bank": normal_initial(self.n_queries, dim, std=1, generator=generator),
            "norm_weight": torch.ones(dim),
            **linear_initial("q", inner, dim, generator, bias=False),
            **linear_initial("kv", 2 * HEAD_WIDTH, dim, generator, bias=False),
            **linear_initial("proj", dim, inner, generator, bias=False),
        }

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        z_BHMD = attend(x_BND, self._bank())
        z_HXD = z_BHMD.transpose(0, 1).flatten(1, 2)  # X = B·M: the heads share one value map
        v_HXK = apply_linear(z_HXD, self.kv_weight[:, HEAD_WIDTH:])
        return self.linear("proj", v_HXK.unflatten(1, (-1, self.heads)).flatten(2)).transpose(0, 1)

    def maps(self, x_BND: Tensor) -> Tensor:
        """See `AttentivePooling.maps`."""
        return softmax(logits(x_BND, self._bank()))

    def _bank(self) -> Tensor:
        first_H1D = layer_norm(self.query_bank[:, :1], EPS) * self.norm_weight[:, None]
        q_HMK = self.linear("q", first_H1D).unflatten(2, (self.heads, -1))[:, 0]
        return fold_keys(q_HMK, self.kv_weight[:, :HEAD_WIDTH], 1).transpose(0, 2)  # the heads share one key map
