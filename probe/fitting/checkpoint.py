"""Checkpoints of a pass: a pass that continues after a crash gets the same numbers as one without a crash."""

import io
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...store.durable import write_durably
from ..run.digest import value_digest

logger = logging.getLogger(__name__)

LAYOUT = "layout 4"
"""Changes whenever the names in a saved state change."""
SECONDS = 30.0
"""Least seconds between checkpoints. Slow disks get more: 20 times the seconds that writing one takes."""


class Checkpoint:
    """The file `checkpoint.pt` of a run folder: the state of the pass that is being trained."""

    def __init__(self, folder: Path, about: Sequence[str]) -> None:
        """Prepare to keep one pass.

        Args:
            folder: of the run.
            about: texts that identify the pass. A checkpoint of another pass is not used.
        """
        self._path, self._about = folder / "checkpoint.pt", [LAYOUT, *about]
        self._last, self._pause = time.monotonic(), SECONDS
        self._told = False

    def load(self) -> dict[str, Any] | None:
        """Return the last saved state, on the CPU, or None if this pass has none.

        A damaged checkpoint is not used, because its numbers may have changed. A warning says so.
        """
        try:
            kept = torch.load(self._path, map_location="cpu", weights_only=True)
            about, state = kept["about"], kept["state"]
            whole = kept["digest"] == value_digest([about, state])
        except FileNotFoundError:
            return None
        except Exception:  # an unpickler may raise any error
            whole = False
        if not whole:
            logger.warning(f"{self._path} is damaged, or was written by another version: the pass starts again")
            return None
        return state if about == self._about else None

    def due(self) -> bool:
        """Whether it is time to save the state again."""
        return time.monotonic() - self._last >= self._pause

    def save(self, state: dict[str, Any]) -> None:
        """Save a state of tensors and plain values. If the write fails, the previous checkpoint stays."""
        start = time.monotonic()
        content = io.BytesIO()
        digest = value_digest([self._about, state])
        torch.save({"about": self._about, "state": state, "digest": digest}, content)
        try:
            write_durably(self._path, content.getvalue())
        except OSError as error:
            if not self._told:
                logger.warning(f"cannot write {self._path} ({error.strerror}): the fit continues without a checkpoint")
            self._told = True
        self._last = time.monotonic()
        self._pause = max(SECONDS, 20 * (self._last - start))

    def remove(self) -> None:
        """Remove the checkpoint of a finished pass."""
        self._path.unlink(missing_ok=True)
