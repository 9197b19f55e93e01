"""Stage two: tokens from a store in, trained heads and their accuracies out."""

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

    A folder that is there already is continued: finished cells are not trained again.

    Args:
        stores: path of a store, or paths of several to compare.
        config: which heads, how, and where results go.

    Returns:
        The run: `results` has one row per cell, `history` one row per cell and scored epoch.

    Raises:
        TokenprobeError: something asked for cannot be had; the message says what to do.
    """
    from . import pipeline  # torch loads here, so that `probe --help` does without

    return pipeline.fit([stores] if isinstance(stores, str | Path) else list(stores), config)


def describe_fit(stores: str | Path | Sequence[str | Path], config: FitConfig) -> list[str]:
    """Return what a fit would train, read and take, in lines of text, and do nothing.

    A few steps are timed for it.

    Args:
        stores: as `fit` takes them.
        config: likewise.

    Raises:
        TokenprobeError: something asked for cannot be had; the message says what to do.
    """
    from . import pipeline

    return pipeline.describe_fit([stores] if isinstance(stores, str | Path) else list(stores), config)


def load_head(run: str | Path, cell: str) -> Head:
    """Load a trained head: a module from tokens to logits. See `tokenprobe.probe.run.saved.load_head`."""
    from .run import saved

    return saved.load_head(run, cell)
