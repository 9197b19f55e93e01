"""Cells of solvers."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tokenprobe.probe.grid import Cell, HeadSpec
from tokenprobe.probe.solver import SOLVERS, Solver


@pytest.fixture
def make_solver() -> Callable[..., Solver]:
    """Make a solver by name: one cell for each penalty (all of its own if None) and each change of settings."""

    def make(name: str, changes: Sequence[dict[str, Any]] = ({},), penalties: Sequence[float] | None = None) -> Solver:
        kind = SOLVERS[name]
        heads = [HeadSpec(name, tuple({**kind.defaults, **change}.items())) for change in changes]
        decays = penalties or kind.penalties or [0.0]
        cells = [Cell("made", (0,), head, kind.optimizer, None, decay, "full", 0) for head in heads for decay in decays]
        return kind(cells)

    return make
