r"""V-JEPA's attentive pooler (arXiv 2404.08471, section 5; `AttentivePooler` of its code, depth 1).

    x̂ = LN(x),   q = W_q z + b_q,   [k; v] = W_kv x̂ + b_kv,   a_h = softmax_n(q_h . k_hn / sqrt(D/heads))
    y0 = z + W_p [sum_n a_hn v_hn]_h + b_p,   y = y0 + MLP(LN(y0))

with one learned query z that is not normalised; ε = 1e-5, an MLP with GELU.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from .attentive import AttentivePooling, module_names
from .folded import attend, fold_keys, logits, project_blocks, softmax, token_rstd
from .initial import norm_initial, normal_initial

EPS, STD = 1e-5, 0.02
BLOCK = "cross_attention_block"


class JEPAPooling(AttentivePooling):
    """A pre-norm cross-attention block with one query, residual connections and an MLP.

    Parameters, for H cells: `query` (H, 1, D); weights and biases of `q` (D to D), `kv` (D to 2D), `proj` (D to
    D), `fc1` (D to mlp_ratio·D), `fc2`, and of the LayerNorms `norm1` and `norm2`.
    """

    name = "jepa"
    defaults: ClassVar[dict[str, Any]] = {"heads": 16, "mlp_ratio": 4, "tokens": "patch"}
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
    norm1_bias: Tensor

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int],
        *,
        heads: int = 16,
        mlp_ratio: int = 4,
        tokens: str = "patch",
        cells: int | None = None,
        generators: Sequence[Generator | None] | None = None,
    ) -> None:
        """Draw the parameters; the arguments are `EfficientProbing`'s, `heads` attention maps, and `mlp_ratio`.

        Raises:
            InputError: heads does not divide the width; mlp_ratio is below 1; unknown `tokens`.
        """
        super().__init__(dim, cells, tokens)
        self.check_heads(heads)
        self.check_mlp(mlp_ratio)
        self.heads, self.mlp_ratio = heads, mlp_ratio
        self.draw_cells(generators)

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`. Weights that write to the residual are smaller, by the square root of 2."""
        dim, hidden = self.dim, self.dim * self.mlp_ratio
        sizes = {"q": (dim, dim), "kv": (2 * dim, dim), "proj": (dim, dim), "fc1": (hidden, dim), "fc2": (dim, hidden)}
        drawn = {"query": normal_initial(1, dim, std=STD, generator=generator)}
        for name, size in sizes.items():
            std = STD / 2**0.5 if name in ("proj", "fc2") else STD
            drawn[f"{name}_weight"] = normal_initial(*size, std=std, generator=generator)
            drawn[f"{name}_bias"] = torch.zeros(size[0])
        return drawn | norm_initial("norm1", dim) | norm_initial("norm2", dim)

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        z_BHMD = attend(x_BND, self._bank(), token_rstd(x_BND, EPS))
        z_BHMD = z_BHMD * self.norm1_weight[:, None] + self.norm1_bias[:, None]
        values_HBD = project_blocks(z_BHMD, self.kv_weight[:, self.dim :]) + self.kv_bias[:, None, self.dim :]
        y_HBD = self.query + self.linear("proj", values_HBD)
        return (y_HBD + self.mlp(self.norm("norm2", y_HBD, EPS))).transpose(0, 1)

    def maps(self, x_BND: Tensor) -> Tensor:
        """See `AttentivePooling.maps`."""
        return softmax(logits(x_BND, self._bank(), token_rstd(x_BND, EPS)))

    def _bank(self) -> Tensor:
        q_H1D = self.linear("q", self.query)
        return fold_keys(q_H1D, self.kv_weight[:, : self.dim], self.heads) * self.norm1_weight[:, None]
