r"""SimPool (arXiv 2309.06891, section 3.4), without its power mean (γ), as the published comparison uses it.

    x̂ = LN(x),   q = W_q mean_n x_n,   k = W_k x̂,   a = softmax_n(q . k_n / sqrt(D)),   y = sum_n a_n x̂_n

with one map, ε = 1e-6 and no biases but LN's. The query is the mean of the raw tokens, so W_k is folded once per
image. If prefix tokens are read, the mean includes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from torch import Generator, Tensor

from .attentive import QueryPooling, module_names
from .folded import fold_keys
from .initial import linear_initial, norm_initial
from .pooling import TOKENS, PoolingSettings

EPS = 1e-6


@dataclass(frozen=True)
class SimPoolSettings(PoolingSettings):
    """Settings of SimPool."""

    tokens: Annotated[str, TOKENS] = "patch"


class SimPool(QueryPooling):
    """Single-head attention of the mean token, without a value map.

    Parameters, for H cells: `q_weight`, `k_weight` (H, D, D); `norm_weight`, `norm_bias` (H, D).
    """

    name = "simpool"
    title = "SimPool"
    summary = "The mean token attends over all tokens with one map, without a value map."
    source = "arXiv 2309.06891, section 3.4"
    settings = SimPoolSettings()
    token_eps = EPS
    reference_names: Mapping[str, str] = {
        **module_names({"wq": "q", "wk": "k"}, ["weight"]),
        **module_names({"norm_patches": "norm"}),
    }
    k_weight: Tensor
    norm_weight: Tensor

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        return {
            **norm_initial("norm", self.dim),
            **linear_initial("q", self.dim, self.dim, generator, bias=False),
            **linear_initial("k", self.dim, self.dim, generator, bias=False),
        }

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        return self.affine("norm", self.attended(x_BND))[:, :, 0]

    def folded_queries(self, x_BND: Tensor) -> Tensor:
        """See `QueryPooling.folded_queries`."""
        mean_HBD = x_BND.mean(1).expand(len(self.k_weight), -1, -1)
        return fold_keys(self.linear("q", mean_HBD), self.k_weight, 1) * self.norm_weight[:, None]
