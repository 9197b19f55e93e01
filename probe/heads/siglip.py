r"""SigLIP's attention pooling head (arXiv 2303.15343; "MAP", arXiv 2106.04560), as in timm's `AttentionPoolLatent`.

    q = W_q l + b_q,   [k; v] = W_kv x + b_kv,   o = W_o [sum_n a_hn v_hn]_h + b_o,   a_h = softmax_n(q_h . k_hn / sqrt(D/heads))
    y = o + W_2 GELU(W_1 o + b_1) + b_2

with one learned latent l, and no LayerNorm anywhere.
"""  # noqa: E501

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from torch import Generator, Tensor

from .attentive import QueryPooling, module_names
from .folded import attend_values, fold_keys
from .initial import linear_initial, mlp_initial, truncated_initial
from .pooling import MAPS, MLP_RATIO, TOKENS, PoolingSettings


@dataclass(frozen=True)
class SigLIPSettings(PoolingSettings):
    """Settings of SigLIP's pooling."""

    heads: Annotated[int, MAPS] = 8
    mlp_ratio: Annotated[int, MLP_RATIO] = 4
    tokens: Annotated[str, TOKENS] = "patch"


class SigLIPPooling(QueryPooling):
    """Multi-head cross-attention with one latent query, then a residual MLP.

    Parameters, for H cells: `latent` (H, 1, D); weights and biases of `q` (D to D), `kv` (D to 2D), `proj` (D to
    D), `fc1` (D to mlp_ratio·D) and `fc2`.
    """

    name = "siglip"
    title = "SigLIP pooling"
    summary = "A learned query attends over the tokens; then an MLP with a residual."
    source = "arXiv 2303.15343; arXiv 2106.04560"
    settings = SigLIPSettings()
    reference_names: Mapping[str, str] = {
        "latent": "latent",
        **module_names({"q": "q", "kv": "kv", "proj": "proj", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}),
    }
    latent: Tensor
    kv_weight: Tensor
    kv_bias: Tensor

    def set_up(self) -> None:
        """See `Pooling.set_up`."""
        self.check_heads(self.settings.heads)
        self.check_mlp(self.settings.mlp_ratio)

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        return {
            **linear_initial("q", self.dim, self.dim, generator),
            **linear_initial("kv", 2 * self.dim, self.dim, generator),
            **linear_initial("proj", self.dim, self.dim, generator),
            **mlp_initial(self.dim, self.settings.mlp_ratio, generator),
            "latent": truncated_initial(1, self.dim, std=self.dim**-0.5, generator=generator),
        }

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        values_HBD = attend_values(x_BND, self.folded_queries(x_BND), self.kv_weight[:, self.dim :])
        values_HBD = values_HBD + self.kv_bias[:, None, self.dim :]
        o_HBD = self.linear("proj", values_HBD)
        return (o_HBD + self.mlp(o_HBD)).transpose(0, 1)

    def folded_queries(self, x_BND: Tensor) -> Tensor:
        """See `QueryPooling.folded_queries`."""
        return fold_keys(self.linear("q", self.latent), self.kv_weight[:, : self.dim], self.settings.heads)
