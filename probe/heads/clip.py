r"""CLIP's attention pooling (arXiv 2103.00020, section 2.4; `AttentionPool2d`), on layer-normalised tokens.

    x̂ = LN(x),   t = [mean_n x̂_n; x̂] + P,   q = W_q t_0 + b_q,   k = W_k t + b_k,   v = W_v t + b_v
    y = W_p [sum a_h v_h]_h + b_p,   a_h = softmax(q_h . k_h / sqrt(D/heads))  over the mean and the tokens

with a learned position P for the mean and for each patch, ε = 1e-6. This is the first row of a full self-attention;
the others are never read. The query differs by image, so W_k is folded once per image. The mean is one more row of keys
and values, and P adds u . P_n to the logits and sum_n a_n P_n to the aggregate.

Prefix tokens (`tokens=patch+prefix`; not in the reference) have no place on the grid. They are in the mean, and
attention reads them without a position.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...errors import InputError
from .attentive import AttentivePooling, module_names
from .folded import aggregate, fold_keys, logits, project_blocks, softmax, token_rstd
from .initial import linear_initial, norm_initial, normal_initial
from .pooling import MAPS, TOKENS, PoolingSettings

EPS = 1e-6


@dataclass(frozen=True)
class CLIPSettings(PoolingSettings):
    """Settings of CLIP's pooling."""

    heads: Annotated[int, MAPS] = 4
    tokens: Annotated[str, TOKENS] = "patch"


class CLIPPooling(AttentivePooling):
    """Multi-head attention of the mean token over itself and all tokens, with learned positions.

    Parameters, for H cells: `position` (H, 1+patches, D); weights and biases of `qkv` (D to 3D), of `proj` (D to D),
    and of the LayerNorm `norm`.

    A map gives the rest of its weight to the mean token, so over tokens it sums to less than 1.
    """

    name = "clip"
    title = "CLIP pooling"
    summary = "The mean token attends over itself and all tokens, with learned positions."
    source = "arXiv 2103.00020, section 2.4"
    settings = CLIPSettings()
    reference_names: Mapping[str, str] = {
        "pos_embed": "position",
        **module_names({"norm": "norm", "qkv": "qkv", "proj": "proj"}),
    }
    position: Tensor
    qkv_weight: Tensor
    qkv_bias: Tensor
    norm_weight: Tensor

    def needs_one_layer(self) -> str:
        """See `Pooling.needs_one_layer`."""
        return "it learns a position for each place of one grid"

    def set_up(self) -> None:
        """See `Pooling.set_up`."""
        self.check_heads(self.settings.heads)

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        dim, std, n_rows = self.dim, self.dim**-0.5, self.grid[0] * self.grid[1] + 1
        return {
            "position": normal_initial(n_rows, dim, std=std, generator=generator),
            **norm_initial("norm", dim),
            "qkv_weight": normal_initial(3 * dim, dim, std=std, generator=generator),
            "qkv_bias": torch.zeros(3 * dim),
            **linear_initial("proj", dim, dim, generator),
        }

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        rstd_BN, mean_BD, own_BHM1, maps_BHMN = self._attend(x_BND)
        z_BHMD = aggregate(x_BND, maps_BHMN, rstd_BN) + own_BHM1 * mean_BD[:, None, None]
        z_BHMD = self.affine("norm", z_BHMD)
        weights_HXY = torch.cat([own_BHM1, maps_BHMN], -1).transpose(0, 1).flatten(1, 2)  # X = B·M, Y = 1+N
        position_HXD = torch.bmm(weights_HXY, self._positions(x_BND.shape[1]))
        z_BHMD = z_BHMD + position_HXD.unflatten(1, (x_BND.shape[0], -1)).transpose(0, 1)
        values_HBD = project_blocks(z_BHMD, self.qkv_weight[:, 2 * self.dim :]) + self.qkv_bias[:, None, 2 * self.dim :]
        return self.linear("proj", values_HBD).transpose(0, 1)

    def maps(self, x_BND: Tensor) -> Tensor:
        """See `AttentivePooling.maps`."""
        return self._attend(x_BND)[3]

    def _attend(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the tokens' rstd (B, N), mean x̂ (B, D), and the weights of the mean and of the tokens."""
        rstd_BN = token_rstd(x_BND, EPS)
        uniform_B11N = rstd_BN.new_full((x_BND.shape[0], 1, 1, x_BND.shape[1]), 1 / x_BND.shape[1])
        mean_BD = aggregate(x_BND, uniform_B11N, rstd_BN)[:, 0, 0]
        first_HBD = self.affine("norm", mean_BD) + self.position[:, :1]
        query, key = self.qkv_weight[:, : self.dim], self.qkv_weight[:, self.dim : 2 * self.dim]
        q_HBD = torch.baddbmm(self.qkv_bias[:, None, : self.dim], first_HBD, query.transpose(1, 2))
        u_BHMD = fold_keys(q_HBD, key, self.settings.heads)
        scaled_BHMD = u_BHMD * self.norm_weight[:, None]
        of_mean_BHM1 = (scaled_BHMD * mean_BD[:, None, None]).sum(-1, keepdim=True)
        of_tokens_BHMN = logits(x_BND, scaled_BHMD, rstd_BN)
        u_HXD = u_BHMD.transpose(0, 1).flatten(1, 2)
        of_places_HXY = torch.bmm(u_HXD, self._positions(x_BND.shape[1]).transpose(1, 2))  # X = H·M, Y = 1+N
        of_places_BHMY = of_places_HXY.unflatten(1, (x_BND.shape[0], -1)).transpose(0, 1)
        maps = softmax(torch.cat([of_mean_BHM1, of_tokens_BHMN], -1) + of_places_BHMY)
        return rstd_BN, mean_BD, maps[..., :1], maps[..., 1:]

    def _positions(self, n_tokens: int) -> Tensor:
        """Return P of the mean and of all tokens, (H, 1+N, D); zero for prefix tokens, which come first.

        Raises:
            InputError: there are fewer tokens than patches on the grid.
        """
        n_prefix = n_tokens - (self.position.shape[1] - 1)
        if n_prefix == 0:
            return self.position
        if n_prefix < 0:
            raise InputError(
                f"clip for a grid of {self.grid} got {n_tokens} tokens; build it for the grid of these tokens"
            )
        first, patches = self.position[:, :1], self.position[:, 1:]
        return torch.cat([first, F.pad(patches, (0, 0, n_prefix, 0))], dim=1)
