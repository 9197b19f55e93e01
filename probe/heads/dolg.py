r"""DELF's attention (arXiv 1612.06321, section 3.2), as the local branch of DOLG (arXiv 2108.02927).

    f = BatchNorm(W x + b),   s_n = softplus(w · ReLU(f_n) + b_2),   y = 1/N sum_n s_n f_n / ‖f_n‖

The scores are not normalised over tokens. BatchNorm (ε = 1e-5) is over images and tokens. Norm and ReLU act on
each projected token, so W cannot be folded. One product with f applies the weights s_n / (N ‖f_n‖). No convolution
is wider than a token, so the pooling needs no grid and can read prefix tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .attentive import AttentivePooling, module_names, statistics_names
from .initial import norm_initial, normal_initial, uniform_initial
from .pooling import TOKENS, PoolingSettings

EPS, MOMENTUM = 1e-5, 0.1


@dataclass(frozen=True)
class DOLGSettings(PoolingSettings):
    """Settings of DOLG's local branch."""

    tokens: Annotated[str, TOKENS] = "patch"


class DOLGPooling(AttentivePooling):
    """One map of unbounded positive scores over projected, normalised tokens.

    Parameters, for H cells: weights and biases of `conv1` (D to D) and `conv2` (D to 1), 1×1 convolutions, and of
    the BatchNorm `bn`. Buffers: `running_mean` and `running_var` (H, D).

    A map is s_n / N: it does not sum to 1.
    """

    name = "dolg"
    title = "DOLG"
    summary = "One map of positive scores over projected, normalised tokens."
    source = "arXiv 1612.06321, section 3.2; arXiv 2108.02927"
    settings = DOLGSettings()
    reference_names: Mapping[str, str] = module_names({name: name for name in ("conv1", "bn", "conv2")})
    reference_buffers: Mapping[str, str | None] = statistics_names("bn")
    conv1_weight: Tensor
    conv1_bias: Tensor
    bn_weight: Tensor
    bn_bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def needs_one_layer(self) -> str:
        """See `Pooling.needs_one_layer`."""
        return "its BatchNorm takes one statistic over all tokens, and layers differ"

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`. Weights of the convolutions have variance 2 over the number of outputs."""
        dim = self.dim
        return {
            "conv1_weight": normal_initial(dim, dim, std=(2 / dim) ** 0.5, generator=generator),
            "conv1_bias": uniform_initial(dim, fan_in=dim, generator=generator),
            **norm_initial("bn", dim),
            "conv2_weight": normal_initial(1, dim, std=2**0.5, generator=generator),
            "conv2_bias": uniform_initial(1, fan_in=dim, generator=generator),
        }

    def make_buffers(self) -> None:
        """See `Pooling.make_buffers`."""
        self.keep_statistics(self.dim)

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        f_BHND = self._features(x_BND, track=self.training)
        weights_BHN = self._scores(f_BHND)[:, :, 0] / f_BHND.norm(dim=-1).clamp_min(1e-12)
        y_BHD: Tensor = (weights_BHN[:, :, None] @ f_BHND)[:, :, 0]
        return y_BHD

    def maps(self, x_BND: Tensor) -> Tensor:
        """See `AttentivePooling.maps`."""
        return self._scores(self._features(x_BND, track=False))

    def _features(self, x_BND: Tensor, *, track: bool) -> Tensor:
        """Return f, (B, H, N, D), in at least float32."""
        weight_XD, bias_X = self.conv1_weight.flatten(0, 1), self.conv1_bias.flatten()  # X = H·D
        norm_weight_X, norm_bias_X = self.bn_weight.flatten(), self.bn_bias.flatten()
        if self.training:  # BatchNorm removes the bias again: it only enters the tracked mean
            projected_BNX, mean_X = F.linear(x_BND, weight_XD), self.running_mean.flatten() - bias_X.detach()
        else:
            projected_BNX, mean_X = F.linear(x_BND, weight_XD, bias_X), self.running_mean.flatten()
        projected_YX = projected_BNX.flatten(0, 1).to(norm_weight_X.dtype)  # Y = B·N
        var_X = self.running_var.flatten().clone()  # like mean_X, batch_norm updates it
        f_YX = F.batch_norm(projected_YX, mean_X, var_X, norm_weight_X, norm_bias_X, self.training, MOMENTUM, EPS)
        if track:
            self.running_mean.copy_((mean_X + bias_X.detach()).view_as(self.running_mean))
            self.running_var.copy_(var_X.view_as(self.running_var))
        f_BHND: Tensor = f_YX.unflatten(0, x_BND.shape[:2]).unflatten(2, (-1, self.dim)).transpose(1, 2)
        return f_BHND

    def _scores(self, f_BHND: Tensor) -> Tensor:
        """Return s / N, (B, H, 1, N)."""
        n_images, _, n_tokens, _ = f_BHND.shape
        raw_HX1 = self.linear("conv2", F.relu(f_BHND).transpose(0, 1).flatten(1, 2))
        scores_HX1 = F.softplus(raw_HX1.to(torch.promote_types(raw_HX1.dtype, torch.float32)))
        return scores_HX1.view(-1, n_images, 1, n_tokens).transpose(0, 1) / n_tokens
