r"""AIM's attention pooling (arXiv 2401.08541, appendix on attentive probing; MHCA with BatchNorm on the tokens).

    x̃ = BatchNorm(x) over images and tokens, ε = 1e-6, without weight and bias
    a_h = softmax_n(c_h . (W_k x̃_n)_h / sqrt(D/heads)),    y_h = sum_n a_hn (W_v x̃_n)_h,    y = [y_1 … y_heads]

x̃_n = (x_n − μ)/σ per channel, so the normalisation folds like γ and β: u = W_kᵀ c / (σ sqrt(D/heads)), and
z = (sum_n a_n x_n − μ)/σ. In training the statistics are those of the batch, the same for all cells.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from .attentive import AttentivePooling, statistics_names
from .folded import attend, fold_keys, logits, project_blocks, softmax
from .initial import normal_initial, uniform_initial
from .pooling import MAPS, TOKENS, PoolingSettings

EPS, MOMENTUM = 1e-6, 0.1


@dataclass(frozen=True)
class AIMSettings(PoolingSettings):
    """Settings of AIM's pooling."""

    heads: Annotated[int, MAPS] = 16
    tokens: Annotated[str, TOKENS] = "patch"


class AIMPooling(AttentivePooling):
    """Multi-head cross-attention with one query over batch-normalised tokens.

    Parameters, for H cells: `query` (H, 1, D), `key` and `value` (H, D, D). Buffers: `running_mean` and
    `running_var` (H, D).
    """

    name = "aim"
    title = "AIM"
    summary = "A learned query attends over batch-normalised tokens."
    source = "arXiv 2401.08541, appendix on attentive probing"
    settings = AIMSettings()
    reference_names: Mapping[str, str] = {"cls_token": "query", "k.weight": "key", "v.weight": "value"}
    reference_buffers: Mapping[str, str | None] = statistics_names("bn")
    query: Tensor
    key: Tensor
    value: Tensor
    running_mean: Tensor
    running_var: Tensor

    def set_up(self) -> None:
        """See `Pooling.set_up`."""
        self.check_heads(self.settings.heads)

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        key, value = (uniform_initial(self.dim, self.dim, fan_in=self.dim, generator=generator) for _ in range(2))
        return {"key": key, "value": value, "query": normal_initial(1, self.dim, std=0.02, generator=generator)}

    def make_buffers(self) -> None:
        """See `Pooling.make_buffers`."""
        self.keep_statistics(self.dim)

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        mean, var = self._statistics(x_BND)
        if self.training:
            self._track(mean, var, x_BND.shape[0] * x_BND.shape[1])
        std = (var + EPS).sqrt()
        z_BHMD = (attend(x_BND, self._bank() / std) - mean) / std
        return project_blocks(z_BHMD, self.value).transpose(0, 1)

    def maps(self, x_BND: Tensor) -> Tensor:
        """See `AttentivePooling.maps`."""
        _, var = self._statistics(x_BND)
        return softmax(logits(x_BND, self._bank() / (var + EPS).sqrt()))

    def _bank(self) -> Tensor:
        return fold_keys(self.query, self.key, self.settings.heads)

    def _statistics(self, x_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the channels, (1, D) of the batch or (H, 1, D) as tracked."""
        if not self.training:
            return self.running_mean[:, None], self.running_var[:, None]
        values = x_BND.to(torch.promote_types(x_BND.dtype, torch.float32))
        var, mean = torch.var_mean(values, dim=(0, 1), correction=0)
        return mean[None], var[None]

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, n_values: int) -> None:
        """Move the running statistics towards those of a batch, as torch's BatchNorm does."""
        self.running_mean.lerp_(mean.to(self.running_mean.dtype).expand_as(self.running_mean), MOMENTUM)
        unbiased = var * n_values / (n_values - 1)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype).expand_as(self.running_var), MOMENTUM)
