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
45 strengths then take 1,000 iterations instead of 15,000.

    n images, G = F + 1 columns (rotated features, and a one for b), C classes, H cells
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..heads.head import BATCH_NORM_EPS
from ..heads.pooling import PoolingSettings
from .contract import POOL, LinearSolver, Tell, Work, chunk_rows, keep_quiet
from .ridge import moments_work, take_moments

USUAL_ITERATIONS = 25
"""Mean number of iterations per strength over the grid: 1,000 for 45 on CIFAR-10."""
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
        iteration = 4 * n_images * width * n_classes
        n_iterations = len(set(self.decays)) * USUAL_ITERATIONS
        fit = moments_work(n_images, width, n_classes) + n_iterations * iteration
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
    """Fit one model for each penalty p = 1/C, strongest first; each starts where the previous one ended.

    Args:
        features: (n, F).
        labels: (n,) int64, or (n, C) of zeros and ones.
        n_classes: C.
        penalties: in any order.
        tolerance: largest entry of the gradient of J by U at which a fit has converged.
        max_iterations: most iterations of L-BFGS per fit.
        tell: called after each fit, and with 0 during it.
    """
    moments = take_moments(features, labels, n_classes)
    open_C = (moments.target > 0) & ((moments.target < 1) | (labels.ndim == 1))
    eigenvalues_F, vectors_FF = torch.linalg.eigh(moments.covariance)
    rotated_NF = rotate(features, moments.mean, vectors_FF)
    problem = Problem(F.pad(rotated_NF, (0, 1), value=1), keep_classes(labels, open_C))
    eigenvalues_G = F.pad(eigenvalues_F.clamp_min(0), (0, 1), value=1)
    weight_CG = rotated_NF.new_zeros(int(open_C.sum()), len(eigenvalues_G))
    fits: dict[float, LogregFit] = {}
    for penalty in sorted(set(penalties), reverse=True):
        weight_CG, n_iterations, gradient = minimise(
            problem, penalty, eigenvalues_G, weight_CG, tolerance=tolerance, max_iterations=max_iterations, tell=tell
        )
        full_CF = weight_CG.new_zeros(n_classes, features.shape[1])
        bias_C = torch.where(moments.target > 0, CERTAIN, -CERTAIN).double()
        full_CF[open_C], bias_C[open_C] = weight_CG[:, :-1] @ vectors_FF.T, weight_CG[:, -1]
        fits[penalty] = LogregFit(moments.mean, full_CF, bias_C, n_iterations, gradient)
        tell(1 / len(set(penalties)))
    return [fits[penalty] for penalty in penalties]


class Problem(NamedTuple):
    """The mean loss as a function of the weights.

    Attributes:
        rows: rotated features and a one, (n, G) float64.
        labels: (n,) int64, or (n, C) float64.
    """

    rows: Tensor
    labels: Tensor

    def loss(self, weight_CG: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss and its gradient (C, G), summed over parts of the rows."""
        loss, gradient_CG = weight_CG.new_zeros(()), torch.zeros_like(weight_CG)
        n_rows = chunk_rows(max(weight_CG.shape))
        for rows_BG, labels_B in zip(self.rows.split(n_rows), self.labels.split(n_rows), strict=True):
            scores_BC = rows_BG @ weight_CG.T
            if labels_B.ndim == 1:
                log_p_BC = scores_BC.log_softmax(1)
                loss += F.nll_loss(log_p_BC, labels_B, reduction="sum")
                residual_BC = log_p_BC.exp_()
                residual_BC[torch.arange(len(labels_B), device=labels_B.device), labels_B] -= 1
            else:
                loss += F.binary_cross_entropy_with_logits(scores_BC, labels_B, reduction="sum")
                residual_BC = scores_BC.sigmoid_() - labels_B
            gradient_CG.addmm_(residual_BC.T, rows_BG)
        return loss / len(self.labels), gradient_CG / len(self.labels)


def minimise(
    problem: Problem,
    penalty: float,
    eigenvalues_G: Tensor,
    start_CG: Tensor,
    *,
    tolerance: float,
    max_iterations: int,
    tell: Tell = keep_quiet,
) -> tuple[Tensor, int, float]:
    """Minimise J from `start_CG`.

    Returns:
        The weights (C, G), the number of iterations, and the largest entry of the gradient by U.
    """
    if not len(start_CG):
        return start_CG, 0, 0.0
    several = problem.labels.ndim == 2
    share_G = torch.full_like(eigenvalues_G, penalty * (1 if several or len(start_CG) != 2 else 2))
    share_G[-1] = 0  # the intercept is free
    share_G /= len(problem.labels)
    scale_G = ((0.25 if several else 1 / len(start_CG)) * eigenvalues_G + share_G).rsqrt()
    u_CG = start_CG / scale_G

    def evaluate() -> Tensor:
        weight_CG = u_CG * scale_G
        loss, gradient_CG = problem.loss(weight_CG)
        u_CG.grad = (gradient_CG + share_G * weight_CG) * scale_G
        tell(0)
        return loss + 0.5 * (share_G * weight_CG.square()).sum()

    optimizer = torch.optim.LBFGS(
        [u_CG],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        tolerance_grad=tolerance,
        tolerance_change=0,  # the gradient alone decides
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(evaluate)
    evaluate()
    assert u_CG.grad is not None
    return u_CG * scale_G, optimizer.state[u_CG]["n_iter"], float(u_CG.grad.abs().max())


def rotate(features: Tensor, mean_F: Tensor, vectors_FF: Tensor) -> Tensor:
    """Return the centred features in the basis of the columns of `vectors_FF`, (n, F) float64."""
    parts = features.split(chunk_rows(features.shape[1]))
    return torch.cat([(x_BF.double() - mean_F) @ vectors_FF for x_BF in parts])


def keep_classes(labels: Tensor, kept_C: Tensor) -> Tensor:
    """Return labels as numbers among the kept classes, or the columns of the kept ones in float64."""
    if labels.ndim == 2:
        return labels[:, kept_C].double()
    return (kept_C.cumsum(0) - 1)[labels]
