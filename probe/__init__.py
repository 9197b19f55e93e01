"""Stage two: it reads tokens from a store, trains heads and reports their accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .config import FitConfig

if TYPE_CHECKING:
    from .heads import Head
    from .run.results import Run

__all__ = ["FitConfig", "describe_fit", "fit", "load_head"]


def fit(stores: str | Path | Sequence[str | Path], config: FitConfig) -> Run:
    """Train every cell of a sweep from token stores.

    A fit into an existing run folder continues that run. It does not train finished cells again.

    Args:
        stores: path of one store, or paths of several stores to compare.
        config: the settings of the fit.

    Returns:
        The run: `results` has one row per cell, `history` one row per cell and scored epoch.

    Raises:
        TokenprobeError: a request cannot be met. The message names the remedy.
    """
    from . import pipeline  # imported here because `probe --help` must not load torch

    return pipeline.fit([stores] if isinstance(stores, str | Path) else list(stores), config)


def describe_fit(stores: str | Path | Sequence[str | Path], config: FitConfig) -> list[str]:
    """Describe a fit without running it: its cells, bytes to read, memory and time, in lines of text.

    It runs a few steps to time them.

    Args:
        stores: as for `fit`.
        config: as for `fit`.

    Raises:
        TokenprobeError: a request cannot be met. The message names the remedy.
    """
    from . import pipeline

    return pipeline.describe_fit([stores] if isinstance(stores, str | Path) else list(stores), config)


def load_head(run: str | Path, cell: str | None = None, *, trust_code: bool = False) -> Head:
    """Load a trained head, of a run, a file or the hub: a module from tokens to logits.

    See `tokenprobe.probe.run.saved.load_head`.
    """
    from .run import saved

    return saved.load_head(run, cell, trust_code=trust_code)
