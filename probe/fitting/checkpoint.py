"""Checkpoints of a pass: after a crash it goes on with the numbers that it would have had."""

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

LAYOUT = "layout 3"
"""Changes with the names under which a state is kept."""
SECONDS = 30.0
"""Between checkpoints, at least; more where writing one takes more than a twentieth of that."""


class Checkpoint:
    """The file `checkpoint.pt` of a run folder: the state of the pass that is being trained."""

    def __init__(self, folder: Path, about: Sequence[str]) -> None:
        """Prepare to keep one pass.

        Args:
            folder: of the run.
            about: what the pass consists of; a checkpoint of another is not used.
        """
        self._path, self._about = folder / "checkpoint.pt", [LAYOUT, *about]
        self._last, self._pause = time.monotonic(), SECONDS
        self._told = False

    def load(self) -> dict[str, Any] | None:
        """Return the state that was kept last, on the CPU, or None if there is none of this pass.

        One that is damaged is not used, and a line says so: numbers in it may have changed.
        """
        try:
            kept = torch.load(self._path, map_location="cpu", weights_only=True)
            about, state = kept["about"], kept["state"]
            whole = kept["digest"] == value_digest([about, state])
        except FileNotFoundError:
            return None
        except Exception:  # unpicklers fail in any way
            whole = False
        if not whole:
            logger.warning(f"{self._path} is damaged, or was written by another version: the pass starts again")
            return None
        return state if about == self._about else None

    def due(self) -> bool:
        """Whether it is time to keep the state again."""
        return time.monotonic() - self._last >= self._pause

    def save(self, state: dict[str, Any]) -> None:
        """Keep a state, of tensors and plain values, if the disk takes it; the one before is kept if not."""
        start = time.monotonic()
        content = io.BytesIO()
        digest = value_digest([self._about, state])
        torch.save({"about": self._about, "state": state, "digest": digest}, content)
        try:
            write_durably(self._path, content.getvalue())
        except OSError as error:
            if not self._told:
                logger.warning(
                    f"cannot write {self._path} ({error.strerror}): the fit goes on, but after a crash not from here"
                )
            self._told = True
        self._last = time.monotonic()
        self._pause = max(SECONDS, 20 * (self._last - start))

    def remove(self) -> None:
        """Forget the pass: it is finished."""
        self._path.unlink(missing_ok=True)
