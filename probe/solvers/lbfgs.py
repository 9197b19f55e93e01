"""L-BFGS for many functions at once, which share their evaluation.

Each function has its own direction, step and history, as if alone (the two-loop recursion: D. C. Liu and J. Nocedal,
Mathematical Programming 45 (1989), algorithm 2.1). Together they need few calls of large operations instead of many
calls of small ones. A function that has converged leaves the others.

A step t along a direction d with slope s = gᵀd is accepted if the function falls by 1e-4 t |s|, or if the slope has
halved. The second condition decides near a minimum, where rounding hides the fall (the approximate Wolfe condition of
W. W. Hager and H. Zhang, SIAM Journal on Optimization 16 (2005), section 3). A rejected step is shortened, to where a
line through both slopes is zero.

    h functions that have not converged, out of H; X unknowns each
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .contract import Tell, keep_quiet

HISTORY = 10
"""Steps that shape the next direction."""
FALL, HALVED = 1e-4, 0.5
ROUNDING = 1e-9
"""The largest rise of a function that rounding may explain."""

Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes points (h, X) and the numbers (h,) of their functions; returns values (h,) and gradients (h, X)."""


class Minima(NamedTuple):
    """The ends of H searches.

    Attributes:
        points: (H, X).
        n_iterations: accepted steps, (H,) int64.
        gradients: the largest entry of each gradient, (H,).
    """

    points: Tensor
    n_iterations: Tensor
    gradients: Tensor


def minimise(
    evaluate: Evaluate, starts_HX: Tensor, *, tolerance: float, max_iterations: int, tell: Tell = keep_quiet
) -> Minima:
    """Minimise H convex functions whose second derivatives are about 1.

    Args:
        evaluate: evaluates some of the functions.
        starts_HX: starting points, float64.
        tolerance: a search has converged if no entry of its gradient is larger.
        max_iterations: most accepted steps of a search; it makes at most twice as many evaluations.
        tell: called after each evaluation with the number of searches that have ended since the last call.
    """
    n_steps_H, gradients_H = (starts_HX.new_zeros(len(starts_HX), dtype=kind) for kind in (torch.int64, None))
    found = Minima(starts_HX.clone(), n_steps_H, gradients_H)
    searches = _Searches(evaluate, starts_HX)
    for n_evaluations in range(1, 2 * max_iterations + 1):
        largest_h = torch.linalg.vector_norm(searches.gradients, torch.inf, dim=1)
        ended_h = (largest_h <= tolerance) | (searches.n_steps >= max_iterations)
        if n_evaluations == 2 * max_iterations:
            ended_h[:] = True
        n_ended = int(ended_h.sum())
        if n_ended:
            places = searches.numbers[ended_h]
            found.points[places], found.gradients[places] = searches.points[ended_h], largest_h[ended_h]
            found.n_iterations[places] = searches.n_steps[ended_h]
            searches.keep((~ended_h).nonzero()[:, 0])
        tell(n_ended)
        if not len(searches.numbers):
            break
        searches.step(evaluate)
    return found


class _Searches:
    """The searches that go on.

    Attributes:
        numbers: numbers of their functions, (h,).
        points: (h, X), with `values` (h,) and `gradients` (h, X).
        directions: (h, X), with `slopes` along them and the `lengths` of the next trial steps, (h,).
        n_steps: accepted steps, (h,).
    """

    def __init__(self, evaluate: Evaluate, starts_HX: Tensor) -> None:
        """Evaluate the starting points; the first direction is that of steepest descent."""
        self.points, self.numbers = starts_HX, torch.arange(len(starts_HX), device=starts_HX.device)
        self.values, self.gradients = evaluate(self.points, self.numbers)
        self.directions, self.slopes = -self.gradients, -_dots(self.gradients, self.gradients)
        self.lengths = torch.ones_like(self.values)
        self.n_steps = torch.zeros_like(self.numbers)
        self._scales = torch.ones_like(self.values)
        self._history: list[tuple[Tensor, Tensor, Tensor]] = []

    def keep(self, kept: Tensor) -> None:
        """Go on with some searches, given by their places (h,)."""
        for name, values in vars(self).items():
            if isinstance(values, Tensor):
                setattr(self, name, values[kept])
        self._history = [(s[kept], y[kept], rho[kept]) for s, y, rho in self._history]

    def step(self, evaluate: Evaluate) -> None:
        """Try one step of every search. Take it, or shorten the next trial."""
        moved_hX = self.lengths[:, None] * self.directions
        values_h, gradients_hX = evaluate(self.points + moved_hX, self.numbers)
        slopes_h = _dots(gradients_hX, self.directions)
        has_fallen = values_h <= self.values + FALL * self.lengths * self.slopes
        has_halved = (slopes_h.abs() <= HALVED * self.slopes.abs()) & (values_h <= self.values + ROUNDING)
        taken_h = has_fallen | has_halved
        self._remember(moved_hX, gradients_hX - self.gradients, taken_h)
        shorter_h = (self.slopes / (self.slopes - slopes_h)).clamp(0.1, 0.5) * self.lengths
        self.points = torch.where(taken_h[:, None], self.points + moved_hX, self.points)
        self.gradients = torch.where(taken_h[:, None], gradients_hX, self.gradients)
        self.values = torch.where(taken_h, values_h, self.values)
        self.directions = torch.where(taken_h[:, None], self._descent(), self.directions)
        self.slopes = _dots(self.gradients, self.directions)
        self.lengths = torch.where(taken_h, 1.0, shorter_h)
        self.n_steps = self.n_steps + taken_h

    def _remember(self, s_hX: Tensor, y_hX: Tensor, taken_h: Tensor) -> None:
        """Add the pair of a step s and the change y of the gradient. A step that is not taken weighs nothing."""
        product_h = _dots(s_hX, y_hX)
        is_curved = taken_h & (product_h > 0)
        self._history.append((s_hX, y_hX, torch.where(is_curved, 1 / product_h, 0.0)))
        self._history = self._history[-HISTORY:]
        self._scales = torch.where(is_curved, product_h / _dots(y_hX, y_hX), self._scales)

    def _descent(self) -> Tensor:
        """Return minus the estimated inverse of the second derivatives times the gradient, (h, X)."""
        q_hX, weights = -self.gradients, []
        for s_hX, y_hX, rho_h in reversed(self._history):
            weights.append(rho_h * _dots(s_hX, q_hX))
            q_hX.addcmul_(weights[-1][:, None], y_hX, value=-1)
        q_hX *= self._scales[:, None]
        for (s_hX, y_hX, rho_h), weight_h in zip(self._history, reversed(weights), strict=True):
            q_hX.addcmul_((weight_h - rho_h * _dots(y_hX, q_hX))[:, None], s_hX)
        return q_hX


def _dots(a_hX: Tensor, b_hX: Tensor) -> Tensor:
    """Return the inner products of rows, (h,)."""
    dots: Tensor = torch.linalg.vecdot(a_hX, b_hX)
    return dots
