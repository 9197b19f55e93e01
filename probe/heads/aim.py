r"""AIM's attention pooling (arXiv 2401.08541, appendix on attentive probing; MHCA with BatchNorm on the tokens).

    x̃ = BatchNorm(x) over images and tokens, ε = 1e-6, without weight and bias
    a_h = softmax_n(c_h . (W_k x̃_n)_h / sqrt(D/heads)),    y_h = sum_n a_hn (W_v x̃_n)_h,    y = [y_1 … y_heads]

x̃_n = (x_n − μ)/σ per channel, so the normalisation folds like γ and β: u = W_kᵀ c / (σ sqrt(D/heads)), and
z = (sum_n a_n x_n − μ)/σ. In training the statistics are those of the batch, the same for all cells.

With `token_norm=none`, x̃ = x. With `heads=0` too, this is the attentive probe of CAPI (arXiv 2502.08769), but for its
biases: that of the keys changes nothing, and that of the values is one more term of the classifier's bias.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Generator, Tensor

from ...errors import unknown_name
from .attentive import AttentivePooling, statistics_names
from .folded import attend, attend_values, fold_keys, logits, project_blocks, softmax
from .initial import normal_initial, uniform_initial
from .pooling import NORM, TOKENS, PoolingSettings

EPS, MOMENTUM = 1e-6, 0.1
CHANNELS = 64
"""Of a map, with `heads=0`."""


@dataclass(frozen=True)
class AIMSettings(PoolingSettings):
    """Settings of AIM's pooling."""

    heads: Annotated[int, "Attention maps; a divisor of the width D; 0 gives one per 64 channels."] = 16
    token_norm: Annotated[str, "Norm of the tokens: batch, or none."] = "batch"
    norm: Annotated[str, NORM] = "batch"
    tokens: Annotated[str, TOKENS] = "patch"


class AIMPooling(AttentivePooling):
    """Multi-head cross-attention with one query over batch-normalised tokens.

    Parameters, for H cells: `query` (H, 1, D), `key` and `value` (H, D, D). Buffers: `running_mean` and
    `running_var` (H, D), if the tokens are normed.
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
        if self.settings.token_norm not in ("batch", "none"):
            raise unknown_name("setting token_norm of aim", self.settings.token_norm, ("batch", "none"))
        self.norms_tokens = self.settings.token_norm == "batch"
        self.heads = self.settings.heads or max(1, self.dim // CHANNELS)
        self.check_heads(self.heads)

    def initial(self, generator: Generator | None) -> dict[str, Tensor]:
        """See `Pooling.initial`."""
        key, value = (uniform_initial(self.dim, self.dim, fan_in=self.dim, generator=generator) for _ in range(2))
        return {"key": key, "value": value, "query": normal_initial(1, self.dim, std=0.02, generator=generator)}

    def make_buffers(self) -> None:
        """See `Pooling.make_buffers`."""
        if self.norms_tokens:
            self.keep_statistics(self.dim)

    def pool(self, x_BND: Tensor) -> Tensor:
        """See `Pooling.pool`."""
        if not self.norms_tokens:
            return attend_values(x_BND, self._bank(), self.value).transpose(0, 1)
        mean, var = self._statistics(x_BND)
        if self.training:
            self._track(mean, var, x_BND.shape[0] * x_BND.shape[1])
        std = (var + EPS).sqrt()
        z_BHMD = (attend(x_BND, self._bank() / std) - mean) / std
        return project_blocks(z_BHMD, self.value).transpose(0, 1)

    def maps(self, x_BND: Tensor) -> Tensor:
        """See `AttentivePooling.maps`."""
        if not self.norms_tokens:
            return softmax(logits(x_BND, self._bank()))
        _, var = self._statistics(x_BND)
        return softmax(logits(x_BND, self._bank() / (var + EPS).sqrt()))

    def _bank(self) -> Tensor:
        return fold_keys(self.query, self.key, self.heads)

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
