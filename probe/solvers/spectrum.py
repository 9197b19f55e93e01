"""The covariance of features by its eigenvectors, and the targets' share in each: the common start of linear solvers.

Let Z (n, F) be the centred features, each perhaps divided by a scale, and Y (n, C) the centred targets, one column per
class. With r = min(n, F) orthonormal directions V (F, r) that span the rows of Z,

    ZᵀZ/n = V diag(e) Vᵀ.

Any penalised linear fit has its weights in that span: a part outside changes no score and costs a penalty. So a solver
has r unknowns per class instead of F.

If n ≥ F, ZᵀZ and ZᵀY are sums over rows, and Z is never made. If n < F, let Zᵀ = Q R with orthonormal Q (F, n). Then
RRᵀ/n = U diag(e) Uᵀ is only n × n, and V = Q U.

    n images, F features, C classes, r = min(n, F) directions
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..heads.pooling import BATCH_NORM_EPS
from .contract import Tell, chunk_rows, keep_quiet

EIGH_WORK = 30
"""Cost of a symmetric eigendecomposition over r³, in operations at the speed of a product: it runs at a third of it."""
QR_WORK = 6
"""Cost of a QR decomposition over F n², likewise: it runs at two thirds of a product's speed."""


class Spectrum(NamedTuple):
    """Features and targets, summed up, float64.

    Attributes:
        mean: mean of the features, (F,).
        var: their variance, (F,), divided by n.
        target: mean of the targets, (C,).
        eigenvalues: e, variances along the directions, (r,), not negative.
        directions: V, orthonormal columns, (F, r).
        cross: covariance of ZV and the targets, (r, C).
        scale: factor on each centred feature, (F,): 1, or 1/sqrt(var + eps).
    """

    mean: Tensor
    var: Tensor
    target: Tensor
    eigenvalues: Tensor
    directions: Tensor
    cross: Tensor
    scale: Tensor


def take_spectrum(
    features: Tensor, labels: Tensor, n_classes: int, *, standardise: bool, tell: Tell = keep_quiet
) -> Spectrum:
    """Return the spectrum of features and targets, in float64.

    Args:
        features: (n, F).
        labels: (n,) int64, or (n, C) of zeros and ones.
        n_classes: C.
        standardise: divide features by sqrt(var + eps), as a head's BatchNorm does.
        tell: called after each part of the rows.
    """
    n_images, width = features.shape
    mean_F, target_C = (features.new_zeros(size, dtype=torch.float64) for size in (width, n_classes))
    for x_BF, y_BC in targets_in_parts(features, labels, n_classes):
        mean_F += x_BF.sum(0) / n_images
        target_C += y_BC.sum(0) / n_images
    centred = ((x_BF - mean_F, y_BC - target_C) for x_BF, y_BC in targets_in_parts(features, labels, n_classes))
    find = _from_rows if n_images < width else _from_moments
    return find(centred, mean_F, target_C, n_images, standardise, tell)


def spectrum_work(n_images: int, width: int, n_classes: int) -> float:
    """Return the operations of `take_spectrum`."""
    if n_images < width:
        small = 2 * n_images**2 * (n_images + 2 * n_classes) + EIGH_WORK * n_images**3
        return (QR_WORK + 2) * width * n_images**2 + small
    return 2 * n_images * width * (width + n_classes) + (EIGH_WORK + 2 * n_classes / width) * width**3


Centred = Iterator[tuple[Tensor, Tensor]]
"""Parts of the centred features and targets, (b, F) and (b, C)."""


def rotate(features: Tensor, spectrum: Spectrum) -> Tensor:
    """Return the coordinates of the centred and scaled features along the directions, (n, r) float64."""
    turned_FR = spectrum.scale[:, None] * spectrum.directions
    parts = features.split(chunk_rows(features.shape[1]))
    return torch.cat([(x_BF.double() - spectrum.mean) @ turned_FR for x_BF in parts])


def targets_in_parts(features: Tensor, labels: Tensor, n_classes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield parts of the features and of the targets, (b, F) and (b, C), in float64."""
    rows = chunk_rows(features.shape[1] + n_classes)
    for x_BF, labels_B in zip(features.split(rows), labels.split(rows), strict=True):
        targets_BC = F.one_hot(labels_B, n_classes) if labels.ndim == 1 else labels_B
        yield x_BF.double(), targets_BC.double()


def _from_moments(
    centred: Centred, mean_F: Tensor, target_C: Tensor, n_images: int, standardise: bool, tell: Tell
) -> Spectrum:
    width, n_classes = len(mean_F), len(target_C)
    covariance_FF, cross_FC = (mean_F.new_zeros(width, size) for size in (width, n_classes))
    for x_BF, y_BC in centred:
        covariance_FF.addmm_(x_BF.T, x_BF, alpha=1 / n_images)
        cross_FC.addmm_(x_BF.T, y_BC, alpha=1 / n_images)
        tell(len(x_BF) / n_images)
    var_F = covariance_FF.diagonal().clone()
    scale_F = _scale(var_F, standardise)
    eigenvalues_R, directions_FR = torch.linalg.eigh(scale_F[:, None] * covariance_FF * scale_F)
    cross_RC = directions_FR.T @ (scale_F[:, None] * cross_FC)
    return Spectrum(mean_F, var_F, target_C, eigenvalues_R.clamp_min(0), directions_FR, cross_RC, scale_F)


def _from_rows(
    centred: Centred, mean_F: Tensor, target_C: Tensor, n_images: int, standardise: bool, tell: Tell
) -> Spectrum:
    z_NF, y_NC = (torch.cat(parts) for parts in zip(*centred, strict=True))
    var_F = z_NF.square().mean(0)
    scale_F = _scale(var_F, standardise)
    basis_FN, inner_NN = torch.linalg.qr((z_NF * scale_F).T)
    eigenvalues_R, turn_NR = torch.linalg.eigh(inner_NN @ inner_NN.T / n_images)
    cross_RC = turn_NR.T @ (inner_NN @ y_NC / n_images)
    tell(1)
    return Spectrum(mean_F, var_F, target_C, eigenvalues_R.clamp_min(0), basis_FN @ turn_NR, cross_RC, scale_F)


def _scale(var_F: Tensor, standardise: bool) -> Tensor:
    return (var_F + BATCH_NORM_EPS).rsqrt() if standardise else torch.ones_like(var_F)
