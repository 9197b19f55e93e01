"""Ridge regression onto the labels, in closed form for every penalty at once.

Let Z (n, F) be the standardised features, z = (x - mean) / sqrt(var + eps), as the head's BatchNorm makes them, and
Y (n, C) the centred targets, one column per class. The columns of Z are centred too, so the intercept is the mean
target, and

    L(W) = 1/n ||Y - Z W||² + λ ||W||²        is least where        (ZᵀZ/n + λ I) W = ZᵀY/n.

With the eigendecomposition ZᵀZ/n = V diag(e) Vᵀ, which does not depend on λ,

    W(λ) = V diag(1 / (e + λ)) VᵀZᵀY/n,

one product for each λ. Z itself is never made. Let S be the covariance of x, R that of x and y, and
D = diag(1/sqrt(var + eps)). Then ZᵀZ/n = D S D and ZᵀY/n = D R, and S and R are sums over rows. The F × F form also
serves n < F, though an n × n form would be smaller: e and W are then zero in directions that the data do not span.

The diagonal of D S D is 1 (to eps), so e is 1 on average for a layer of any scale, and one grid of λ suits all layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..heads.head import BATCH_NORM_EPS
from ..heads.pooling import PoolingSettings
from .contract import POOL, LinearSolver, Tell, Work, chunk_rows, keep_quiet

EIGH_WORK = 30
"""Cost of a symmetric eigendecomposition over F³, in operations at the speed of a product: it runs at a third of it."""


@dataclass(frozen=True)
class RidgeSettings(PoolingSettings):
    """Settings of ridge regression."""

    pool: Annotated[str, POOL] = "mean"


class Ridge(LinearSolver):
    """Least squares on one-hot labels with an L2 penalty λ of 1e-6, 1e-5, …, 1e3."""

    name = "ridge"
    title = "ridge regression"
    summary = "Least squares on one-hot labels, for ten L2 penalties from one decomposition."
    source = "common practice"
    own_settings = RidgeSettings()
    optimizer = "eigh"
    logits = False
    penalties = tuple(10.0**power for power in range(-6, 4))

    def work(self, n_images: int, n_scored: int, width: int, n_classes: int) -> Work:
        """See `Solver.work`."""
        solutions = 2 * len(self.decays) * width**2 * n_classes
        return Work(moments_work(n_images, width, n_classes) + solutions, self.scores_work(n_scored, width, n_classes))

    def fit(self, features: Tensor, labels: Tensor, n_classes: int, tell: Tell = keep_quiet) -> None:
        """See `Solver.fit`."""
        moments = take_moments(features, labels, n_classes, tell)
        weight_HCF = fit_ridge(moments, self.decays)
        self.mean, self.var = moments.mean.float(), moments.covariance.diagonal().float()
        self.weight, self.bias = weight_HCF.float(), moments.target.float().expand(len(self.settings), -1)

    def status(self, index: int) -> str:
        """See `Solver.status`."""
        return "solved"


class Moments(NamedTuple):
    """First and second moments of features and targets, float64.

    Attributes:
        mean: mean of the features, (F,).
        target: mean of the targets, (C,).
        covariance: covariance of the features, (F, F), divided by n.
        cross: covariance of features and targets, (F, C).
    """

    mean: Tensor
    target: Tensor
    covariance: Tensor
    cross: Tensor


def fit_ridge(moments: Moments, penalties: list[float]) -> Tensor:
    """Return the weights (H, C, F), float64, on standardised features, one for each penalty."""
    scale_F = (moments.covariance.diagonal() + BATCH_NORM_EPS).rsqrt()
    eigenvalues_F, vectors_FF = torch.linalg.eigh(scale_F[:, None] * moments.covariance * scale_F)
    projected_FC = vectors_FF.T @ (scale_F[:, None] * moments.cross)
    shrunk = [projected_FC / (eigenvalues_F.clamp_min(0) + penalty)[:, None] for penalty in penalties]
    return torch.stack([(vectors_FF @ solution_FC).T for solution_FC in shrunk])


def moments_work(n_images: int, width: int, n_classes: int) -> float:
    """Return the operations of `take_moments` and of the decomposition of the covariance after it."""
    return 2 * n_images * width * (width + n_classes) + EIGH_WORK * width**3


def take_moments(features: Tensor, labels: Tensor, n_classes: int, tell: Tell = keep_quiet) -> Moments:
    """Return the moments of features (n, F) and of targets, summed in float64 over parts of the rows.

    Args:
        features: (n, F).
        labels: (n,) int64, or (n, C) of zeros and ones.
        n_classes: C.
        tell: called after each part of the rows.
    """
    n_images, width = features.shape
    mean_F, target_C = (features.new_zeros(size, dtype=torch.float64) for size in (width, n_classes))
    for x_BF, y_BC in _parts(features, labels, n_classes):
        mean_F += x_BF.sum(0) / n_images
        target_C += y_BC.sum(0) / n_images
    covariance_FF, cross_FC = (mean_F.new_zeros(width, size) for size in (width, n_classes))
    for x_BF, y_BC in _parts(features, labels, n_classes):
        centred_BF = x_BF - mean_F
        covariance_FF.addmm_(centred_BF.T, centred_BF, alpha=1 / n_images)
        cross_FC.addmm_(centred_BF.T, y_BC - target_C, alpha=1 / n_images)
        tell(len(x_BF) / n_images)
    return Moments(mean_F, target_C, covariance_FF, cross_FC)


def _parts(features: Tensor, labels: Tensor, n_classes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield parts of the features and of the targets, (b, F) and (b, C), in float64."""
    rows = chunk_rows(features.shape[1] + n_classes)
    for x_BF, labels_B in zip(features.split(rows), labels.split(rows), strict=True):
        targets_BC = F.one_hot(labels_B, n_classes) if labels.ndim == 1 else labels_B
        yield x_BF.double(), targets_BC.double()
