"""Solvers by name: heads fitted at once, not batch by batch. A new one is a file and a line in `SOLVERS`."""

from .contract import LinearSolver, Solver
from .knn import KNN
from .logreg import LogisticRegression
from .ridge import Ridge

__all__ = ["SOLVERS", "LinearSolver", "Solver"]

SOLVERS: dict[str, type[Solver]] = {"knn": KNN, "ridge": Ridge, "logreg": LogisticRegression}
