"""Multinomial logistic regression with an L2 penalty, for a grid of its strength C.

For features x (n, F), scores s = W x + b, and the loss of the labels' softmax, with scikit-learn's definition of C,

    C Σ_i loss(s_i, y_i) + ½ ||W||²,       divided by C n:       J = mean loss + (p/n) ½ ||W||²,   p = 1/C.

With two classes the penalty is on the single vector that decides, w = w_1 - w_0. There w_1 = -w_0 = w/2, hence
½ ||w||² = ||W||²: p counts twice. Images with several labels have an independent sigmoid for each class.

Plain L-BFGS on J needs thousands of iterations, because features vary much in a few directions and little in many. Two
changes of variables cure this without changing J. First, the features are centred, which only moves b. Second, let the
covariance be V diag(e) Vᵀ. In the basis V, near W = 0, the second derivatives of J are h e_j + p/n, and h for b. Here
h is 1/4 for a sigmoid, and 1/c for the softmax over c classes (in directions that change it). L-BFGS works on
U = W V diag(sqrt(h e_j + p/n)), whose second derivatives are all 1. On 5,000 images of CIFAR-10, with 192 features, the
45 strengths then take 1,000 iterations instead of 15,000. Directions that the data do not span need no unknowns, so V
is F × r, with r = min(n, F).

All strengths are minimised together (`lbfgs.py`): one product gives the scores of all. If that takes too much memory,
they are minimised in stacks, strongest penalty first, and each stack starts where the previous one ended.

    n images, G = r + 1 columns (rotated features, and a one for b), C classes, H strengths, h of them in one evaluation
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..heads.pooling import BATCH_NORM_EPS, PoolingSettings
from . import lbfgs
from .contract import POOL, LinearSolver, Tell, Work, chunk_rows, keep_quiet
from .spectrum import rotate, spectrum_work, take_spectrum

USUAL_ITERATIONS = 27
"""Mean number of evaluations per strength over the grid: 1,240 for 45 on CIFAR-10."""
CERTAIN = 1e4
"""Score of a class that all training images have, for a probability of 1; negated for a class that no image has."""


@dataclass(frozen=True)
class LogregSettings(PoolingSettings):
    """Settings of logistic regression."""

    pool: Annotated[str, POOL] = "mean"
    unit: Annotated[bool, "Whether vectors are divided by their norm; one grid of C then suits every layer."] = True


class LogisticRegression(LinearSolver):
    """Logistic regression on vectors of unit length, or on unchanged vectors with `unit=false`.

    The grid of C (45 values from 1e-6 to 1e5) and the 1000 iterations come from DINOv2's evaluation (arXiv 2304.07193).
    DINOv2's features have passed the backbone's final norm and have about the same length for all images. Tokens before
    that norm differ in scale from layer to layer; with unit length one grid suits all layers.

    Attributes:
        tolerance: a fit has converged if no entry of the gradient of J by U is larger.
        max_iterations: most iterations of L-BFGS per strength.
    """

    name = "logreg"
    title = "logistic regression"
    summary = "Logistic regression with an L2 penalty, for 45 strengths."
    source = "arXiv 2304.07193, evaluation"
    own_settings = LogregSettings()
    optimizer = "lbfgs"
    penalties = tuple(10.0 ** (6 - step / 4) for step in range(45))
    tolerance = 1e-6
    max_iterations = 1000

    @property
    def pooling(self) -> dict[str, Any]:
        """See `LinearSolver.pooling`."""
        return {"pool": self.pool, "unit": self.settings[0]["unit"]}

    def work(self, n_images: int, n_scored: int, width: int, n_classes: int) -> Work:
        """See `Solver.work`: the number of iterations is a guess."""
        n_directions = min(n_images, width)
        iteration = 4 * n_images * (n_directions + 1) * n_classes
        n_iterations = len(set(self.decays)) * USUAL_ITERATIONS
        rotations = 2 * n_directions * width * (n_images + len(set(self.decays)) * n_classes)
        fit = spectrum_work(n_images, width, n_classes) + rotations + n_iterations * iteration
        return Work(fit, self.scores_work(n_scored, width, n_classes))

    def fit(self, features: Tensor, labels: Tensor, n_classes: int, tell: Tell = keep_quiet) -> None:
        """See `Solver.fit`."""
        self._fits = fit_logreg(
            self.prepare(features),
            labels,
            n_classes,
            self.decays,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            tell=tell,
        )
        self.mean = self._fits[0].mean.float()
        self.var = torch.full_like(self.mean, 1 - BATCH_NORM_EPS)
        self.weight = torch.stack([fit.weight for fit in self._fits]).float()
        self.bias = torch.stack([fit.bias for fit in self._fits]).float()

    def prepare(self, features: Tensor) -> Tensor:
        """See `LinearSolver.prepare`."""
        return F.normalize(features) if self.settings[0]["unit"] else features

    def status(self, index: int) -> str:
        """See `Solver.status`."""
        fit = self._fits[index]
        if fit.gradient <= self.tolerance:
            return f"converged in {fit.n_iterations} iterations"
        return f"not converged in {fit.n_iterations} iterations (gradient {fit.gradient:.1e})"


class LogregFit(NamedTuple):
    """A fit, float64: scores = (x - mean) · weightᵀ + bias.

    Attributes:
        mean: (F,).
        weight: (C, F).
        bias: (C,).
        n_iterations: iterations of L-BFGS.
        gradient: the largest entry of the gradient of J by U.
    """

    mean: Tensor
    weight: Tensor
    bias: Tensor
    n_iterations: int
    gradient: float


def fit_logreg(
    features: Tensor,
    labels: Tensor,
    n_classes: int,
    penalties: Sequence[float],
    *,
    tolerance: float,
    max_iterations: int,
    tell: Tell = keep_quiet,
) -> list[LogregFit]:
    """Fit one model for each penalty p = 1/C.

    Args:
        features: (n, F).
        labels: (n,) int64, or (n, C) of zeros and ones.
        n_classes: C.
        penalties: in any order.
        tolerance: largest entry of the gradient of J by U at which a fit has converged.
        max_iterations: most iterations of L-BFGS per fit.
        tell: called after each evaluation.
    """
    spectrum = take_spectrum(features, labels, n_classes, standardise=False)
    open_C = (spectrum.target > 0) & ((spectrum.target < 1) | (labels.ndim == 1))
    rotated_NR = rotate(features, spectrum)
    problem = Problem(F.pad(rotated_NR, (0, 1), value=1), keep_classes(labels, open_C), int(open_C.sum()))
    variances_G = F.pad(spectrum.eigenvalues, (0, 1), value=1)
    ordered = sorted(set(penalties), reverse=True)
    start_CG = rotated_NR.new_zeros(problem.n_classes, len(variances_G))
    fits: dict[float, LogregFit] = {}

    def tell_all(n_ended: float) -> None:
        tell(n_ended / len(ordered))

    for stack in _stacks(ordered, start_CG.numel()):
        weights_HCG, found = minimise(
            problem, stack, variances_G, start_CG, tolerance=tolerance, max_iterations=max_iterations, tell=tell_all
        )
        start_CG = weights_HCG[-1]
        for penalty, weight_CG, n_steps, gradient in zip(stack, weights_HCG, *found[1:], strict=True):
            full_CF = weight_CG.new_zeros(n_classes, features.shape[1])
            bias_C = torch.where(spectrum.target > 0, CERTAIN, -CERTAIN).double()
            full_CF[open_C], bias_C[open_C] = weight_CG[:, :-1] @ spectrum.directions.T, weight_CG[:, -1]
            fits[penalty] = LogregFit(spectrum.mean, full_CF, bias_C, int(n_steps), float(gradient))
    return [fits[penalty] for penalty in penalties]


def _stacks(penalties: Sequence[float], n_unknowns: int) -> list[Sequence[float]]:
    """Cut penalties into stacks whose histories, of one kind, are no larger than a temporary array may be."""
    size = chunk_rows(max(1, lbfgs.HISTORY * n_unknowns))
    return [penalties[start : start + size] for start in range(0, len(penalties), size)]


class Problem(NamedTuple):
    """The mean loss as a function of the weights.

    Attributes:
        rows: rotated features and a one, (n, G) float64.
        labels: (n,) int64, or (n, C) float64.
        n_classes: C.
    """

    rows: Tensor
    labels: Tensor
    n_classes: int

    def losses(self, weights_hCG: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean losses (h,) and their gradients (h, C, G), summed over parts of the rows."""
        n_cells, n_columns = len(weights_hCG), weights_hCG.shape[2]
        flat_XG = weights_hCG.flatten(0, 1)
        losses_h, gradients_XG = weights_hCG.new_zeros(n_cells), torch.zeros_like(flat_XG)
        n_rows = chunk_rows(max(n_columns, len(flat_XG)))
        for rows_BG, labels_B in zip(self.rows.split(n_rows), self.labels.split(n_rows), strict=True):
            scores_BhC = (rows_BG @ flat_XG.T).view(-1, n_cells, self.n_classes)
            if labels_B.ndim == 1:
                places_Bh1 = labels_B[:, None, None].expand(-1, n_cells, 1)
                log_p_BhC = scores_BhC.log_softmax(2)
                losses_h -= log_p_BhC.gather(2, places_Bh1).sum((0, 2))
                residual_BhC = log_p_BhC.exp_()
                residual_BhC.scatter_add_(2, places_Bh1, residual_BhC.new_full((1,), -1).expand(places_Bh1.shape))
            else:
                targets_BhC = labels_B[:, None].expand_as(scores_BhC)
                losses_BhC = F.binary_cross_entropy_with_logits(scores_BhC, targets_BhC, reduction="none")
                losses_h += losses_BhC.sum((0, 2))
                residual_BhC = scores_BhC.sigmoid_() - targets_BhC
            gradients_XG.addmm_(residual_BhC.flatten(1).T, rows_BG)
        return losses_h / len(self.labels), gradients_XG.view_as(weights_hCG) / len(self.labels)


def minimise(
    problem: Problem,
    penalties: Sequence[float],
    variances_G: Tensor,
    start_CG: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    tell: Tell = keep_quiet,
) -> tuple[Tensor, lbfgs.Minima]:
    """Minimise J for each penalty, from `start_CG`.

    Returns:
        The weights (H, C, G), and the searches' ends by U.
    """
    several, n_classes = problem.labels.ndim == 2, problem.n_classes
    if not n_classes:
        nothing_H = variances_G.new_zeros(len(penalties))
        return start_CG.expand(len(penalties), -1, -1), lbfgs.Minima(nothing_H[:, None], nothing_H.long(), nothing_H)
    shares_HG = variances_G.new_tensor(penalties)[:, None].repeat(1, len(variances_G))
    shares_HG[:, -1] = 0  # the intercept is free
    shares_HG *= (1 if several or n_classes != 2 else 2) / len(problem.labels)
    scales_HG = ((0.25 if several else 1 / n_classes) * variances_G + shares_HG).rsqrt()

    def evaluate(u_hX: Tensor, numbers_h: Tensor) -> tuple[Tensor, Tensor]:
        scales_h1G, shares_h1G = scales_HG[numbers_h, None], shares_HG[numbers_h, None]
        weights_hCG = u_hX.view(-1, *start_CG.shape) * scales_h1G
        losses_h, gradients_hCG = problem.losses(weights_hCG)
        shrunk_hCG = shares_h1G * weights_hCG
        losses_h += 0.5 * (shrunk_hCG * weights_hCG).sum((1, 2))
        return losses_h, ((gradients_hCG + shrunk_hCG) * scales_h1G).flatten(1)

    starts_HX = (start_CG / scales_HG[:, None]).flatten(1)
    found = lbfgs.minimise(evaluate, starts_HX, tolerance=tolerance, max_iterations=max_iterations, tell=tell)
    return found.points.view(-1, *start_CG.shape) * scales_HG[:, None], found


def keep_classes(labels: Tensor, kept_C: Tensor) -> Tensor:
    """Return labels as numbers among the kept classes, or the columns of the kept ones in float64."""
    if labels.ndim == 2:
        return labels[:, kept_C].double()
    return (kept_C.cumsum(0) - 1)[labels]
