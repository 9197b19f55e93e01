"""Heads that are fitted at once, from all pooled vectors, instead of trained batch by batch.

A new solver needs a file here and a line in `SOLVERS`.
"""

from .contract import LinearSolver, Solver
from .knn import KNN
from .logreg import LogisticRegression
from .ncm import NearestClassMean
from .ridge import Ridge

__all__ = ["SOLVERS", "LinearSolver", "Solver"]

SOLVERS: dict[str, type[Solver]] = {
    "knn": KNN,
    "ncm": NearestClassMean,
    "ridge": Ridge,
    "logreg": LogisticRegression,
}
