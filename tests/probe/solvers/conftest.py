"""Solvers by name."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tokenprobe.probe.solvers import SOLVERS, Solver


@pytest.fixture
def make_solver() -> Callable[..., Solver]:
    """Make a solver by name: one cell for each penalty (all of its own if None) and each change of settings."""

    def make(name: str, changes: Sequence[dict[str, Any]] = ({},), penalties: Sequence[float] | None = None) -> Solver:
        kind = SOLVERS[name]
        decays = list(penalties or kind.penalties or [0.0])
        settings = [{**kind.defaults, **change} for change in changes for _ in decays]
        return kind(settings, decays * len(changes))

    return make
