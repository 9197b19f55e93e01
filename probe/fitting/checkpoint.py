"""Checkpoints of a pass: after a crash it goes on with the numbers that it would have had."""

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ...store.durable import write_durably

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

    def load(self) -> dict[str, Any] | None:
        """Return the state that was kept last, on the CPU, or None if there is none of this pass."""
        try:
            kept = torch.load(self._path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception:  # what is written is written whole, so this is no checkpoint; unpicklers fail in any way
            return None
        return kept["state"] if kept["about"] == self._about else None

    def due(self) -> bool:
        """Whether it is time to keep the state again."""
        return time.monotonic() - self._last >= self._pause

    def save(self, state: dict[str, Any]) -> None:
        """Keep a state: tensors and plain values."""
        start = time.monotonic()
        content = io.BytesIO()
        torch.save({"about": self._about, "state": state}, content)
        write_durably(self._path, content.getvalue())
        self._last = time.monotonic()
        self._pause = max(SECONDS, 20 * (self._last - start))

    def remove(self) -> None:
        """Forget the pass: it is finished."""
        self._path.unlink(missing_ok=True)
