"""The head: pooling, then a BatchNorm, then Linear, for H stacked cells at once.

With BatchNorm1d(affine=False, eps=1e-6), as nearly all poolings have it, this is the head of the published protocol
(arXiv 2506.10178; MAE, arXiv 2111.06377, appendix A.1). A pooling may do without the BatchNorm.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .initial import uniform_initial
from .pooling import ClassifierNorm, Pooling
from .products import apply_linear
from .rounding import rounds


class Head(nn.Module):
    """Tokens to logits.

    Parameters, for H cells of pooled width O and C classes: those of the pooling, `weight` (H, C, O) and `bias` (H, C);
    `norm_weight` and `norm_bias` (H, O), if the pooling's `classifier_norm` is affine. Buffers: `running_mean` and
    `running_var` (H, O), with equal rows if the pooling is `shared`; none without a `classifier_norm`.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, pooling: Pooling, n_classes: int, generators: Sequence[Generator | None] | None = None) -> None:
        """Draw the classifier as torch's nn.Linear does, one generator per cell, after the pooling's parameters."""
        super().__init__()
        self.pooling, self.cells = pooling, pooling.cells
        n_cells, width = pooling.cells or 1, pooling.out_dim
        drawn = [
            [uniform_initial(*shape, fan_in=width, generator=g) for shape in ((n_classes, width), (n_classes,))]
            for g in generators or [None] * n_cells
        ]
        self.weight = nn.Parameter(torch.stack([weight for weight, _ in drawn]))
        self.bias = nn.Parameter(torch.stack([bias for _, bias in drawn]))
        norm = pooling.classifier_norm
        if norm is None:
            return
        if norm.affine:
            self.norm_weight = nn.Parameter(torch.ones(n_cells, width))
            self.norm_bias = nn.Parameter(torch.zeros(n_cells, width))
        self.register_buffer("running_mean", torch.zeros(n_cells, width))
        self.register_buffer("running_var", torch.ones(n_cells, width))

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return logits (B, C), or (B, H, C) for stacked cells.

        Args:
            x_BND: the arrays named by `pooling.inputs`, joined along the token axis.
        """
        normed_BHO = self.features(x_BND)
        if self.pooling.shared:  # one product for all cells, X = H·C
            logits_BX = F.linear(normed_BHO[:, 0], self.weight.flatten(0, 1), self.bias.flatten())
            logits_BHC: Tensor = logits_BX.unflatten(1, self.bias.shape)
        else:
            logits_BHC = apply_linear(normed_BHO.transpose(0, 1), self.weight, self.bias).transpose(0, 1)
        return logits_BHC if self.cells is not None else logits_BHC[:, 0]

    def features(self, x_BND: Tensor) -> Tensor:
        """Return the classifier's input, (B, H, O), or (B, 1, O) if the pooling is `shared`."""
        if x_BND.dtype != self.weight.dtype and not torch.is_autocast_enabled(x_BND.device.type):
            x_BND = x_BND.to(self.weight.dtype)  # tokens are stored in float16
        pooled_BHO = self.pooling.pool(x_BND)
        if not rounds(pooled_BHO):
            pooled_BHO = pooled_BHO.to(self.weight.dtype)
        norm = self.pooling.classifier_norm
        return pooled_BHO if norm is None else self._normed(pooled_BHO, norm)

    def _normed(self, pooled_BHO: Tensor, norm: ClassifierNorm) -> Tensor:
        """Apply the BatchNorm in full precision; features that all cells share, (B, 1, O), are normed once.

        On a GPU the kernels take features as autocast rounds them, and round the classifier's input.
        """
        n_tracked = pooled_BHO.shape[1]
        pooled_BX = pooled_BHO.flatten(1)
        normed_BX = F.batch_norm(
            pooled_BX,
            self.running_mean[:n_tracked].view(-1),  # views, which batch_norm updates
            self.running_var[:n_tracked].view(-1),
            self.norm_weight.flatten() if norm.affine else None,
            self.norm_bias.flatten() if norm.affine else None,
            training=self.training,
            eps=norm.eps,
        )
        if self.training and self.pooling.shared and len(self.running_mean) > 1:
            self.running_mean[1:], self.running_var[1:] = self.running_mean[0], self.running_var[0]
        return normed_BX.view_as(pooled_BHO)

    def n_params(self) -> int:
        """Return the number of parameters of one cell."""
        return sum(parameter[0].numel() for parameter in self.parameters())
