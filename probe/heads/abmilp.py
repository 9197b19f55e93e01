r"""AbMILP, attention-based multiple-instance pooling (arXiv 1802.04712), behind a self-attention (arXiv 2005.12991).

    S = softmax(x W_qᵀ W_k xᵀ / sqrt(D)) x W_vᵀ W_pᵀ + b_p        one head over all tokens, without residual or norm
    a = softmax_n(w · f(W_1 z_n + b_1) + b),   y = sum_n a_n v_n,  f tanh or ReLU, `depth` − 1 hidden layers

with z = v = S (`self_attention="both"`), z = S and v = x ("map"), or z = v = x ("none": the plain AbMILP; its depth 1
is the "simple" one). `cond="pe"` adds the fixed 2-D sine-cosine position to z; prefix tokens have none.
`content="patch"` leaves prefix tokens out.

The self-attention is attention pooling with N queries per image: row n has the folded query u_n = W_kᵀ W_q x_n, and
aggregates raw tokens to r_n; S_n = W_p W_v r_n + b_p. Consecutive maps are multiplied once per batch: W_kᵀ W_q, and
W_1 W_p W_v for the hidden layer. Two of the five D×D products per token remain.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...errors import InputError, unknown_name
from .attentive import AttentivePooling, module_names
from .folded import aggregate, attend, softmax
from .initial import linear_initial
from .pooling import TOKENS, PoolingSettings
from .products import apply_linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": F.relu}
CHOICES = {
    "self_attention": ("both", "map", "none"),
    "activation": tuple(ACTIVATIONS),
    "content": ("all", "patch"),
    "cond": ("none", "pe"),
}


@dataclass(frozen=True)
class AbMILPSettings(PoolingSettings):
    """Settings of AbMILP."""

    self_attention: Annotated[
        str, "What reads the output of the self-attention: scores and values (both), scores (map), or nothing (none)."
    ] = "both"
    depth: Annotated[int, "Layers of the scorer; 1 or more."] = 2
    activation: Annotated[str, "Between the scorer's layers: tanh or relu."] = "tanh"
    content: Annotated[str, "Tokens that the pooling sums: all that it reads, or patch tokens alone (patch)."] = "all"
    cond: Annotated[str, "Positions added before scoring: none or pe. pe needs a D that 4 divides."] = "none"
    tokens: Annotated[str, TOKENS] = "patch"


class AbMILP(AttentivePooling):
    """One map, scored token by token by a small network.

    Parameters, for H cells: with self-attention `qkv_weight` (H, 3D, D), `proj_weight` and `proj_bias`; weights and
    biases of `score0`, … (D to D) and of the last one (D to 1). Buffer: `position` (1, patches, D), not saved.
    """

    name = "abmilp"
    title = "AbMILP"
    summary = "One map, scored token by token by a small network, behind a self-attention."
    source = "arXiv 1802.04712; arXiv 2005.12991"
    settings = AbMILPSettings()
    reference_names: Mapping[str, str] = module_names({"attention_predictor.0": "score0"})  # `set_up` adds the others
    qkv_weight: Tensor
    proj_weight: Tensor
    proj_bias: Tensor
    score0_weight: Tensor
    score0_bias: Tensor
    position: Tensor

    def needs_one_layer(self) -> str:
        """See `Pooling.needs_one_layer`."""
        return "cond=pe adds a position for each place of one grid" if self.settings.cond == "pe" else ""

    def set_up(self) -> None:
        """See `Pooling.set_up`."""
        for setting, known in CHOICES.items():
            if (value := getattr(self.settings, setting)) not in known:
                raise unknown_name(f"setting {setting} of abmilp", value, known)
        depth = self.settings.depth
        if depth < 1:
            raise InputError(f"abmilp with depth={depth}: expected 1 or more")
        self.n_patches = self.n_layers * self.grid[0] * self.grid[1]
        self.reference_names = module_names({f"attention_predictor.{2 * i}": f"score{i}" for i in range(depth)})
        if self.settings.self_attention != "none":
            self.reference_names |= module_names({"self_attn.qkv": "qkv"}, ["weight"])
            self.reference_names |= module_names({"self_attn.proj": "proj"})

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        dim = self.dim
        drawn: dict[str, Tensor] = {}
        if self.settings.self_attention != "none":
            drawn |= linear_initial("qkv", 3 * dim, dim, generator, bias=False)
            drawn |= linear_initial("proj", dim, dim, generator)
        for layer in range(self.settings.depth):
            drawn |= linear_initial(f"score{layer}", dim if layer < self.settings.depth - 1 else 1, dim, generator)
        return drawn

    def make_buffers(self) -> None:
        """See `Pooling.make_buffers`."""
        if self.settings.cond == "pe":
            self.register_buffer("position", sincos_position(self.grid, self.dim)[None], persistent=False)
            self.reference_buffers = {"pos_embed": "position"}

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        x_BND = self._content(x_BND)
        if self.settings.self_attention != "both":
            return aggregate(x_BND, self.maps(x_BND))[:, :, 0]
        rows_BHND = self._rows(x_BND)
        maps_BH1N = self._maps(x_BND, rows_BHND)
        z_HBD = (maps_BH1N.to(rows_BHND.dtype) @ rows_BHND)[:, :, 0].transpose(0, 1)
        return self.linear("proj", apply_linear(z_HBD, self.qkv_weight[:, 2 * self.dim :])).transpose(0, 1)

    def maps(self, x_BND: Tensor) -> Tensor:
        """See `AttentivePooling.maps`."""
        x_BND = self._content(x_BND)
        return self._maps(x_BND, None if self.settings.self_attention == "none" else self._rows(x_BND))

    def _content(self, x_BND: Tensor) -> Tensor:
        return x_BND if self.settings.content == "all" else x_BND[:, -self.n_patches :]

    def _rows(self, x_BND: Tensor) -> Tensor:
        """Return r, for each token the weighted sum of the raw tokens that it attends to, (B, H, N, D)."""
        query, key, _ = self.qkv_weight.chunk(3, dim=1)
        folded_HDD = torch.bmm(key.transpose(1, 2), query) * self.dim**-0.5
        u_BNX = F.linear(x_BND, folded_HDD.flatten(0, 1))  # X = H·D
        return attend(x_BND, u_BNX.unflatten(2, (-1, self.dim)).transpose(1, 2))

    def _maps(self, x_BND: Tensor, rows_BHND: Tensor | None) -> Tensor:
        """Return the map, (B, H, 1, N): the softmax of the scores of the tokens, or of the rows r if given."""
        first, offset = self.score0_weight, self.score0_bias[:, None] + self._position_scores(x_BND.shape[1])
        if rows_BHND is None:
            z_HYD = x_BND.flatten(0, 1).expand(len(first), -1, -1)  # Y = B·N
        else:
            z_HYD = rows_BHND.transpose(0, 1).flatten(1, 2)
            offset = offset + torch.bmm(self.proj_bias[:, None], first.transpose(1, 2))
            first = torch.bmm(torch.bmm(first, self.proj_weight), self.qkv_weight[:, 2 * self.dim :])
        scores_HBNK = apply_linear(z_HYD, first).unflatten(1, (x_BND.shape[0], -1)) + offset[:, None]
        scores = scores_HBNK.flatten(1, 2)
        for layer in range(1, self.settings.depth):
            hidden_HYK = ACTIVATIONS[self.settings.activation](scores)
            last = layer == self.settings.depth - 1  # its bias is the same for all tokens, and drops out of the softmax
            scores = self.linear(f"score{layer}", hidden_HYK, bias=not last)
        return softmax(scores.view(len(first), x_BND.shape[0], 1, -1).transpose(0, 1))

    def _position_scores(self, n_tokens: int) -> Tensor:
        """Return the positions' term in the first layer, (H, N, K), or zero; prefix tokens come first."""
        if self.settings.cond == "none":
            return self.score0_bias.new_zeros(())
        position_1ND = F.pad(self.position.to(self.score0_bias.dtype), (0, 0, n_tokens - self.n_patches, 0))
        return torch.bmm(position_1ND.expand(len(self.score0_weight), -1, -1), self.score0_weight.transpose(1, 2))


def sincos_position(grid: tuple[int, int], dim: int) -> Tensor:
    """Return the 2-D sine-cosine positions of MAE (arXiv 2111.06377), (height·width, dim), float64, row by row.

    Half the channels encode the column, half the row. Each half has as many sines as cosines, with wavelengths
    from 2π towards 2π·10000.

    Raises:
        InputError: 4 does not divide `dim`.
    """
    if dim % 4:
        raise InputError(f"cond='pe' on tokens {dim} wide: 4 must divide the width")
    rows, columns = (torch.arange(length, dtype=torch.float64) for length in grid)
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = [places.flatten()[:, None] * frequencies for places in torch.meshgrid(columns, rows, indexing="xy")]
    return torch.cat([wave for of_axis in angles for wave in (of_axis.sin(), of_axis.cos())], dim=1)
