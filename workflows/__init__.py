"""Commands that need both stages: demo, export, predict, repair, and heads to hand on or to put behind a backbone.

Workflows call `extract`, `probe` and `store`, which do not import them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..extract.backbones import Backbone
    from .probed_model import ProbedModel

__all__ = ["export_pipeline"]


def export_pipeline(
    run: str | Path,
    cell: str | None = None,
    *,
    model: str | Backbone | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_key: str | None = None,
    trust_code: bool = False,
) -> ProbedModel:
    """Compose backbone and trained head: images to logits. See `tokenprobe.workflows.probed_model.export_pipeline`."""
    from . import probed_model  # loads torch, which `probe --help` does not need

    return probed_model.export_pipeline(
        run, cell, model=model, checkpoint=checkpoint, checkpoint_key=checkpoint_key, trust_code=trust_code
    )
