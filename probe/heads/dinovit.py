r"""A whole pre-norm transformer block, as in DINOv2 (arXiv 2304.07193) without LayerScale, then the mean over tokens.

    x' = x + W_p Attn(LN_1(x)) + b_p,   x'' = x' + W_2 GELU(W_1 LN_2(x') + b_1) + b_2,   y = mean_n x''_n

Every token is a query, and LN and GELU act between the maps, so each token still needs its D×D products. Two parts
fold: LN_1 without weight and bias is computed once for all cells, and W_2, which is linear, acts on the mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .attentive import AttentivePooling, layer_norm, module_names
from .folded import softmax
from .initial import linear_initial, mlp_initial, norm_initial
from .pooling import MLP_RATIO, TOKENS, PoolingSettings

EPS = 1e-5


@dataclass(frozen=True)
class DINOViTSettings(PoolingSettings):
    """Settings of the transformer block."""

    heads: Annotated[int, "Heads of the block's attention; a divisor of D."] = 8
    mlp_ratio: Annotated[int, MLP_RATIO] = 4
    tokens: Annotated[str, TOKENS] = "patch"


class DINOViTPooling(AttentivePooling):
    """One block of a vision transformer, averaged.

    Parameters, for H cells: `qkv_weight` (H, 3D, D); weights and biases of `proj` (D to D), `fc1` (D to mlp_ratio·D),
    `fc2`, and of the LayerNorms `norm1` and `norm2`.

    A map is a head's attention averaged over all tokens as queries: the weight of each token's value in the mean.
    """

    name = "dinovit"
    title = "DINO-ViT block"
    summary = "A whole transformer block over the tokens, then the mean."
    source = "arXiv 2304.07193"
    settings = DINOViTSettings()
    reference_names: Mapping[str, str] = {
        **module_names({"dino_block.attn.qkv": "qkv"}, ["weight"]),
        **module_names(
            {
                "dino_block.norm1": "norm1",
                "dino_block.attn.proj": "proj",
                "dino_block.norm2": "norm2",
                "dino_block.mlp.fc1": "fc1",
                "dino_block.mlp.fc2": "fc2",
            }
        ),
    }
    qkv_weight: Tensor
    norm1_weight: Tensor
    norm1_bias: Tensor

    def set_up(self) -> None:
        """See `Pooling.set_up`."""
        self.check_heads(self.settings.heads)
        self.check_mlp(self.settings.mlp_ratio)

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        return {
            **norm_initial("norm1", self.dim),
            **linear_initial("qkv", 3 * self.dim, self.dim, generator, bias=False),
            **linear_initial("proj", self.dim, self.dim, generator),
            **norm_initial("norm2", self.dim),
            **mlp_initial(self.dim, self.settings.mlp_ratio, generator),
        }

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        n_images = x_BND.shape[0]
        query, key, value = self._qkv(x_BND)
        mixed_YMNK = F.scaled_dot_product_attention(query, key, value)
        mixed_HBNMK = mixed_YMNK.unflatten(0, (n_images, -1)).permute(1, 0, 3, 2, 4)
        x_HXD = x_BND.flatten(0, 1) + self.linear("proj", mixed_HBNMK.flatten(3).flatten(1, 2))  # X = B·N
        hidden_HXE = F.gelu(self.linear("fc1", self.norm("norm2", x_HXD, EPS)))
        mean_HBD, hidden_HBE = (values.unflatten(1, (n_images, -1)).mean(2) for values in (x_HXD, hidden_HXE))
        y_HBD: Tensor = mean_HBD + self.linear("fc2", hidden_HBE)
        return y_HBD.transpose(0, 1)

    def maps(self, x_BND: Tensor) -> Tensor:
        """See `AttentivePooling.maps`."""
        query, key, _ = self._qkv(x_BND)
        maps_YMNN = softmax(query @ key.transpose(2, 3) * (self.dim // self.settings.heads) ** -0.5)
        maps_BHMN: Tensor = maps_YMNN.mean(2).unflatten(0, (x_BND.shape[0], -1))
        return maps_BHMN

    def _qkv(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (B·H, M, N, D/M)."""
        weight_HED = self.qkv_weight * self.norm1_weight[:, None]  # E = 3·D
        bias_HE1 = torch.bmm(self.qkv_weight, self.norm1_bias[:, :, None])
        qkv_BNX = F.linear(layer_norm(x_BND, EPS), weight_HED.flatten(0, 1), bias_HE1.flatten())
        parts = qkv_BNX.unflatten(2, (-1, 3, self.settings.heads, self.dim // self.settings.heads)).permute(
            3, 0, 2, 4, 1, 5
        )
        query, key, value = parts.flatten(1, 2)
        return query, key, value
