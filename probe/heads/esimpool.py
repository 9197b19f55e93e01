r"""SimPool without its query and key maps, in several heads: the smallest attentive pooling of the comparison.

    q = LN(mean_n x_n),   k = LN(x),   a_h = softmax_n(q_h . k_hn / sqrt(D/heads)),   y_h = sum_n a_hn x_hn

where ·_h is the h-th block of D/heads channels; queries and keys share one LayerNorm (ε = 1e-6), and
values are raw tokens. A head's logit is a product over its own channels, but the LayerNorm's mean and variance are over
all channels: with u = γ ⊙ q, the logit is r_n (u_h . x_hn − μ_n sum(u_h)).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from .attentive import AttentivePooling, module_names
from .folded import softmax, token_rstd
from .initial import norm_initial
from .pooling import MAPS, TOKENS, PoolingSettings

EPS = 1e-6


@dataclass(frozen=True)
class ESimPoolSettings(PoolingSettings):
    """Settings of ESimPool."""

    heads: Annotated[int, MAPS] = 12
    tokens: Annotated[str, TOKENS] = "patch"


class ESimPool(AttentivePooling):
    """Multi-head attention of the mean token on the tokens' own channels.

    Parameters, for H cells: `norm_weight`, `norm_bias` (H, D).
    """

    name = "esimpool"
    title = "ESimPool"
    summary = "SimPool in several heads, without its query and key maps."
    source = "arXiv 2506.10178"
    settings = ESimPoolSettings()
    reference_names: Mapping[str, str] = module_names({"norm_patches": "norm"})
    norm_weight: Tensor

    def set_up(self) -> None:
        """See `Pooling.set_up`."""
        self.check_heads(self.settings.heads)

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        return norm_initial("norm", self.dim)

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        maps_BMHN = self.maps(x_BND).transpose(1, 2).to(x_BND.dtype)
        y_BMHK = maps_BMHN @ x_BND.unflatten(2, (self.settings.heads, -1)).transpose(1, 2)
        y_BHD: Tensor = y_BMHK.transpose(1, 2).flatten(2)
        return y_BHD

    def maps(self, x_BND: Tensor) -> Tensor:
        """See `AttentivePooling.maps`."""
        dtype = torch.promote_types(x_BND.dtype, torch.float32)
        q_HBD = self.norm("norm", x_BND.mean(1).expand(len(self.norm_weight), -1, -1), EPS)
        u_HBD = q_HBD * self.norm_weight[:, None] * (self.dim // self.settings.heads) ** -0.5
        u_BMHK = u_HBD.unflatten(2, (self.settings.heads, -1)).permute(1, 2, 0, 3)
        raw_BMHN = u_BMHK.to(x_BND.dtype) @ x_BND.unflatten(2, (self.settings.heads, -1)).permute(0, 2, 3, 1)
        shift_BMHN = u_BMHK.sum(-1, keepdim=True) * x_BND.mean(2, dtype=dtype)[:, None, None]
        return softmax((raw_BMHN - shift_BMHN) * token_rstd(x_BND, EPS)[:, None, None]).transpose(1, 2)
