"""Ridge regression onto the labels, in closed form for every penalty at once.

Let Z (n, F) be the standardised features, z = (x - mean) / sqrt(var + eps), as the head's BatchNorm makes them, and
Y (n, C) the centred targets, one column per class. The columns of Z are centred too, so the intercept is the mean
target, and

    L(W) = 1/n ||Y - Z W||² + λ ||W||²        is least where        (ZᵀZ/n + λ I) W = ZᵀY/n.

With ZᵀZ/n = V diag(e) Vᵀ on r = min(n, F) directions (`spectrum.py`), which do not depend on λ,

    W(λ) = V diag(1 / (e + λ)) (ZV)ᵀY/n,

one product for each λ. W is zero in directions that the data do not span.

The mean of z² is 1 (to eps), so e is F/r on average for a layer of any scale, and one grid of λ suits all layers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ..heads.pooling import PoolingSettings
from .contract import POOL, LinearSolver, Tell, Work, keep_quiet
from .spectrum import Spectrum, spectrum_work, take_spectrum


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

    def status(self, index: int) -> str:
        """See `Solver.status`."""
        return "solved"


def solve_ridge(spectrum: Spectrum, penalties: Sequence[float]) -> Iterator[Tensor]:
    """Yield the weights (C, F), float64, on standardised features, for each penalty."""
    for penalty in penalties:
        solution_RC = spectrum.cross / (spectrum.eigenvalues + penalty)[:, None]
        yield (spectrum.directions @ solution_RC).T
