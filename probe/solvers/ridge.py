"""Ridge regression onto the labels, in closed form for every penalty at once.

Let Z (n, F) be the standardised features, z = (x - mean) / sqrt(var + eps), as the head's BatchNorm makes them, and
Y (n, C) the centred targets, one column per class. The columns of Z are centred too, so the intercept is the mean
target, and

    L(W) = 1/n ||Y - Z W||² + λ ||W||²        is least where        (ZᵀZ/n + λ I) W = ZᵀY/n.

With ZᵀZ/n = V diag(e) Vᵀ on r = min(n, F) directions (`spectrum.py`), which do not depend on λ,

    W(λ) = V diag(1 / (e + λ)) (ZV)ᵀY/n,

one product for each λ. W is zero in directions that the data do not span.

**Leave-one-out.** The fit without image i has the same Z and nλ, n - 1 terms of the loss, and an intercept of its own.
The intercept is a column of ones, at right angles to Z, without penalty. So the estimates for all n images are H Y with

    H = 11ᵀ/n + ZV diag(1 / (n(e + λ))) (ZV)ᵀ,

and the estimate for i by the fit without i follows from the fit with all (Sherman and Morrison's formula; Craven and
Wahba 1978):

    y_i - ŷ_i without i = (y_i - ŷ_i) / (1 - h_i),     h_i = H_ii = 1/n + Σ_r (ZV)²_ir / (n(e_r + λ)).

This holds for n ≥ F and n < F. Mean and variance of the features stay those of all n images; they contain no labels.

The mean of z² is 1 (to eps), so e is F/r on average for a layer of any scale, and one grid of λ suits all layers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ..heads.pooling import PoolingSettings
from .contract import POOL, LinearSolver, Tell, Work, keep_quiet
from .spectrum import Spectrum, rotate, spectrum_work, take_spectrum, targets_in_parts


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
        solutions = 2 * len(self.decays) * width * min(n_images, width) * n_classes
        return Work(spectrum_work(n_images, width, n_classes) + solutions, self.scores_work(n_scored, width, n_classes))

    def fit(self, features: Tensor, labels: Tensor, n_classes: int, tell: Tell = keep_quiet) -> None:
        """See `Solver.fit`."""
        spectrum = take_spectrum(features, labels, n_classes, standardise=True, tell=tell)
        self.mean, self.var = spectrum.mean.float(), spectrum.var.float()
        self.weight = torch.stack([weight_CF.float() for weight_CF in solve_ridge(spectrum, self.decays)])
        self.bias = spectrum.target.float().expand(len(self.settings), -1)

    def left_out(
        self, features: Tensor, labels: Tensor, n_classes: int, folds: Tensor, tell: Tell = keep_quiet
    ) -> Tensor:
        """See `Solver.left_out`. It leaves out every image alone: of `folds` it reads which images have one."""
        spectrum = take_spectrum(features, labels, n_classes, standardise=True, tell=tell)
        scores_NHC = torch.stack([*leave_one_out(features, labels, spectrum, self.decays)], dim=1)
        return scores_NHC[folds >= 0].float()

    def left_out_work(self, n_images: int, width: int, n_classes: int, n_folds: int) -> float:
        """See `Solver.left_out_work`."""
        r = min(n_images, width)
        estimates = len(self.decays) * n_images * r * (n_classes + 1)
        return spectrum_work(n_images, width, n_classes) + 2 * (n_images * width * r + estimates)

    def status(self, index: int) -> str:
        """See `Solver.status`."""
        return "solved"


def solve_ridge(spectrum: Spectrum, penalties: Sequence[float]) -> Iterator[Tensor]:
    """Yield the weights (C, F), float64, on standardised features, for each penalty."""
    for penalty in penalties:
        solution_RC = spectrum.cross / (spectrum.eigenvalues + penalty)[:, None]
        yield (spectrum.directions @ solution_RC).T


def leave_one_out(features: Tensor, labels: Tensor, spectrum: Spectrum, penalties: Sequence[float]) -> Iterator[Tensor]:
    """Yield the estimates (n, C), float64, of every image by the fit without it, for each penalty."""
    rotated_NR, n_classes = rotate(features, spectrum), len(spectrum.target)
    targets_NC = torch.cat([y_BC for _, y_BC in targets_in_parts(features, labels, n_classes)])
    for penalty in penalties:
        shrunk_R = 1 / (spectrum.eigenvalues + penalty)
        fitted_NC = spectrum.target + rotated_NR @ (shrunk_R[:, None] * spectrum.cross)
        leverage_N = (1 + rotated_NR.square() @ shrunk_R) / len(features)
        yield targets_NC - (targets_NC - fitted_NC) / (1 - leverage_N)[:, None]
