"""Nearest class mean: an image belongs to the class whose mean it is nearest to. There is nothing to choose.

Let z = (x - mean) / sqrt(var + eps) be the standardised features, as the head's BatchNorm makes them, and μ_c the mean
of z over the images of class c. The metric is the Euclidean distance between z and μ_c. The score is that of a Gaussian
of unit variance around each mean (Mensink et al. 2013, section 3; Snell et al. 2017, equations 1 and 2):

    -½ ||z - μ_c||² = μ_c·z - ½ ||μ_c||² - ½ ||z||².

The last term is the same for all classes, so the head is linear: weight μ_c, bias -½ ||μ_c||². Images with several
labels ask one question per class: is z nearer to μ_c, or to the mean ν_c of the images without the label?

    ½ ||z - ν_c||² - ½ ||z - μ_c||² = (μ_c - ν_c)·z + ½ ||ν_c||² - ½ ||μ_c||².
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ..heads.pooling import BATCH_NORM_EPS, PoolingSettings
from .contract import POOL, LinearSolver, Tell, Work, keep_quiet
from .spectrum import targets_in_parts

CERTAIN = 1e30
"""Score of a class that all training images have, if they may have several; negated for a class that no image has."""


@dataclass(frozen=True)
class NCMSettings(PoolingSettings):
    """Settings of the nearest class mean."""

    pool: Annotated[str, POOL] = "mean"


class NearestClassMean(LinearSolver):
    """The class whose mean is nearest by Euclidean distance, on standardised features."""

    name = "ncm"
    title = "nearest class mean"
    summary = "The class whose mean is nearest, on standardised features; nothing is selected."
    source = "Mensink et al. (TPAMI 2013), section 3; arXiv 1703.05175, equation 2"
    own_settings = NCMSettings()
    optimizer = "none"

    def work(self, n_images: int, n_scored: int, width: int, n_classes: int) -> Work:
        """See `Solver.work`."""
        return Work(2 * n_images * width * n_classes, self.scores_work(n_scored, width, n_classes))

    def fit(self, features: Tensor, labels: Tensor, n_classes: int, tell: Tell = keep_quiet) -> None:
        """See `Solver.fit`."""
        n_images, width = features.shape
        mean_F, var_F = (features.new_zeros(width, dtype=torch.float64) for _ in range(2))
        sums_CF, count_C1 = mean_F.new_zeros(n_classes, width), mean_F.new_zeros(n_classes, 1)
        for x_BF, _ in targets_in_parts(features, labels, n_classes):
            mean_F += x_BF.sum(0) / n_images
        for x_BF, y_BC in targets_in_parts(features, labels, n_classes):
            var_F += (x_BF - mean_F).square().sum(0) / n_images
            sums_CF.addmm_(y_BC.T, x_BF - mean_F)
            count_C1 += y_BC.sum(0)[:, None]
            tell(len(x_BF) / n_images)
        sums_CF *= (var_F + BATCH_NORM_EPS).rsqrt()
        weight_CF = sums_CF / count_C1.clamp_min(1)
        bias_C = -0.5 * weight_CF.square().sum(1)
        if labels.ndim == 2:
            others_CF = -sums_CF / (n_images - count_C1).clamp_min(1)  # the sum over all images is zero
            weight_CF, bias_C = weight_CF - others_CF, bias_C + 0.5 * others_CF.square().sum(1)
            bias_C[count_C1[:, 0] == n_images] = CERTAIN
        bias_C[count_C1[:, 0] == 0] = -CERTAIN
        n_cells = len(self.settings)
        self.mean, self.var = mean_F.float(), var_F.float()
        self.weight, self.bias = weight_CF.float().expand(n_cells, -1, -1), bias_C.float().expand(n_cells, -1)

    def status(self, index: int) -> str:
        """See `Solver.status`."""
        return "solved"
