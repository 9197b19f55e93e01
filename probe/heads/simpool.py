r"""SimPool (arXiv 2309.06891, section 3.4), without its power mean (γ), as the published comparison uses it.

    x̂ = LN(x),   q = W_q mean_n x_n,   k = W_k x̂,   a = softmax_n(q . k_n / sqrt(D)),   y = sum_n a_n x̂_n

with one map, ε = 1e-6 and no biases but LN's. The query is the mean of the raw tokens, so W_k is folded once an
image. Prefix tokens, if read, are in the mean.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Generator, Tensor

from .attentive import AttentivePooling, module_names
from .folded import attend, fold_keys, logits, softmax, token_rstd
from .initial import linear_initial, norm_initial

EPS = 1e-6


class SimPool(AttentivePooling):
    """Single-head attention of the mean token, without a value map.

    Parameters, for H cells: `q_weight`, `k_weight` (H, D, D); `norm_weight`, `norm_bias` (H, D).
    """

    name = "simpool"
    defaults: ClassVar[dict[str, Any]] = {"tokens": "patch"}
    reference_names: Mapping[str, str] = {
        **module_names({"wq": "q", "wk": "k"}, ["weight"]),
        **module_names({"norm_patches": "norm"}),
    }
    k_weight: Tensor
    norm_weight: Tensor
    norm_bias: Tensor

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int],
        *,
        tokens: str = "patch",
        cells: int | None = None,
        generators: Sequence[Generator | None] | None = None,
    ) -> None:
        """Draw the parameters; the arguments are `EfficientProbing`'s.

        Raises:
            InputError: unknown `tokens`.
        """
        super().__init__(dim, cells, tokens)
        self.draw_cells(generators)

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        return {
            **norm_initial("norm", self.dim),
            **linear_initial("q", self.dim, self.dim, generator, bias=False),
            **linear_initial("k", self.dim, self.dim, generator, bias=False),
        }

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        z_BHD = attend(x_BND, self._queries(x_BND), token_rstd(x_BND, EPS))[:, :, 0]
        return z_BHD * self.norm_weight + self.norm_bias

    def maps(self, x_BND: Tensor) -> Tensor:
        """See `AttentivePooling.maps`."""
        return softmax(logits(x_BND, self._queries(x_BND), token_rstd(x_BND, EPS)))

    def _queries(self, x_BND: Tensor) -> Tensor:
        mean_HBD = x_BND.mean(1).expand(len(self.k_weight), -1, -1)
        return fold_keys(self.linear("q", mean_HBD), self.k_weight, 1) * self.norm_weight[:, None]
