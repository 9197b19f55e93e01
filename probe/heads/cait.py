r"""CaiT's class attention (arXiv 2103.17239, section 3): one class-attention block and a final LayerNorm.

    t = LN([c; x]),   q = W_q t_0 + b_q,   k = W_k t + b_k,   v = W_v t + b_v,   a_h = softmax(q_h . k_h / sqrt(D/heads))
    c' = c + g_1 ⊙ (W_p [sum a_h v_h]_h + b_p),   c'' = c' + g_2 ⊙ MLP(LN(c')),   y = LN_out(c'')

with a learned class token c, ε = 1e-6 (1e-5 in LN_out). The class token is one more row of keys
and values: its logit joins the tokens' softmax, its share joins the aggregate (`folded.attend_beside`). g_1 and g_2 start at 1e-5, so y starts
out the same for all images to that precision; the head's BatchNorm (ε = 1e-6) then gives nearly nothing, and
learning starts through g_1 and g_2.
"""  # noqa: E501

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from .attentive import AttentivePooling, layer_norm, module_names
from .folded import attend_beside, fold_keys, logits, project_blocks, softmax, token_rstd
from .initial import linear_initial, mlp_initial, norm_initial, normal_initial
from .pooling import MAPS, MLP_RATIO, TOKENS, PoolingSettings

EPS, OUT_EPS, SCALE = 1e-6, 1e-5, 1e-5
BLOCK = "blocks_token_only.0"


@dataclass(frozen=True)
class CaiTSettings(PoolingSettings):
    """Settings of CaiT's pooling."""

    heads: Annotated[int, MAPS] = 4
    mlp_ratio: Annotated[int, MLP_RATIO] = 4
    tokens: Annotated[str, TOKENS] = "patch"


class CaiTPooling(AttentivePooling):
    """A class-attention block with LayerScale, an MLP and a final LayerNorm.

    Parameters, for H cells: `query` (H, 1, D), the class token; weights and biases of `q`, `k`, `v`, `proj` (D to
    D), `fc1` (D to mlp_ratio·D), `fc2`, and of the LayerNorms `norm1`, `norm2` and `norm`; `scale1`, `scale2` (H, D).

    A map gives the rest of its weight to the class token, so over tokens it sums to less than 1.
    """

    name = "cait"
    title = "CaiT"
    summary = "A class-attention block: a learned class token, LayerScale and an MLP."
    source = "arXiv 2103.17239, section 3"
    settings = CaiTSettings()
    reference_names: Mapping[str, str] = {
        "cls_token": "query",
        f"{BLOCK}.gamma_1": "scale1",
        f"{BLOCK}.gamma_2": "scale2",
        **module_names({f"{BLOCK}.attn.{name}": name for name in ("q", "k", "v", "proj")}),
        **module_names({f"{BLOCK}.norm1": "norm1", f"{BLOCK}.norm2": "norm2", "norm": "norm"}),
        **module_names({f"{BLOCK}.mlp.fc1": "fc1", f"{BLOCK}.mlp.fc2": "fc2"}),
    }
    query: Tensor
    scale1: Tensor
    scale2: Tensor
    k_weight: Tensor
    v_weight: Tensor
    v_bias: Tensor
    norm1_weight: Tensor

    def set_up(self) -> None:
        """See `Pooling.set_up`."""
        self.check_heads(self.settings.heads)
        self.check_mlp(self.settings.mlp_ratio)

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        dim = self.dim
        drawn = {name: torch.full((dim,), SCALE) for name in ("scale1", "scale2")}
        for name in ("q", "k", "v", "proj"):
            drawn |= linear_initial(name, dim, dim, generator)
        drawn |= mlp_initial(dim, self.settings.mlp_ratio, generator)
        for name in ("norm1", "norm2", "norm"):
            drawn |= norm_initial(name, dim)
        return drawn | {"query": normal_initial(1, dim, std=0.02, generator=generator)}

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        rstd_BN, u_1HMD, own_1HM1 = self._queries(x_BND)
        z_BHMD, lse_BHM = attend_beside(x_BND, u_1HMD, rstd_BN)
        lead_BHM1 = lse_BHM[..., None] - own_1HM1
        z_BHMD = torch.sigmoid(lead_BHM1) * z_BHMD + torch.sigmoid(-lead_BHM1) * layer_norm(self.query, EPS)
        z_BHMD = self.affine("norm1", z_BHMD)
        o_HBD = self.linear("proj", project_blocks(z_BHMD, self.v_weight) + self.v_bias[:, None])
        c_HBD = self.query + self.scale1[:, None] * o_HBD
        c_HBD = c_HBD + self.scale2[:, None] * self.mlp(self.norm("norm2", c_HBD, EPS))
        return self.norm("norm", c_HBD, OUT_EPS).transpose(0, 1)

    def maps(self, x_BND: Tensor) -> Tensor:
        """See `AttentivePooling.maps`."""
        rstd_BN, u_1HMD, own_1HM1 = self._queries(x_BND)
        own_BHM1 = own_1HM1.expand(x_BND.shape[0], -1, -1, -1)
        return softmax(torch.cat([own_BHM1, logits(x_BND, u_1HMD, rstd_BN)], -1))[..., 1:]

    def _queries(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tokens' rstd (B, N), the folded queries (1, H, M, D), the class token's logits (1, H, M, 1)."""
        q_H1D = self.linear("q", self.norm("norm1", self.query, EPS))
        u_1HMD = fold_keys(q_H1D, self.k_weight, self.settings.heads) * self.norm1_weight[:, None]
        return token_rstd(x_BND, EPS), u_1HMD, (u_1HMD * layer_norm(self.query, EPS)).sum(-1, keepdim=True)
