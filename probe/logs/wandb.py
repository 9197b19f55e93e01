"""wandb: one of its runs in `RUN/wandb/`. Its own settings, such as WANDB_MODE=offline and WANDB_PROJECT, count."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from .contract import Point, Writer

if TYPE_CHECKING:
    import pandas as pd

PROJECT = "tokenprobe"
RESULTS = "results"

logger = logging.getLogger(__name__)


class WandbWriter(Writer):
    """Writes to a run of wandb. A file beside it notes the run's id and each point, for a fit that continues."""

    def __init__(self, folder: Path, name: str, part: str, settings: Mapping[str, Any]) -> None:
        """Start or continue a run.

        Args:
            folder: `RUN/wandb`.
            name: of the run.
            part: of the run that this process fits; the runs of all parts are one group.
            settings: of the fit.

        Raises:
            InputError: wandb refuses to start.
        """
        import wandb

        folder.mkdir(exist_ok=True)
        self._noted = folder / f"tokenprobe{f'-{part}' if part else ''}.jsonl"
        self._id, self._steps = read_noted(self._noted)
        self._wandb, self._sections = wandb, set[str]()
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                dir=str(folder.parent),
                name=f"{name} {part}".strip(),
                group=name if part else None,
                id=self._id,
                resume="allow",
                config=dict(settings),
                settings=wandb.Settings(console="off", silent=not logger.isEnabledFor(logging.INFO)),
            )
        except wandb.errors.Error as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"wandb does not start ({reason}); log in with wandb login, or set WANDB_MODE=offline"
            ) from error
        self._notes = open(self._noted, "a", encoding="utf-8")  # noqa: SIM115
        if self._notes.tell() == 0:
            self._note({"id": self._id})

    def steps(self) -> dict[tuple[str, str], set[int]]:
        """See `Writer.steps`."""
        return self._steps

    def add(self, point: Point, value: float) -> None:
        """See `Writer.add`. A chart has one line: wandb overlays charts of several runs, not lines of one."""
        section = point.chart.partition("/")[0]
        if section not in self._sections:
            self._sections.add(section)
            self._run.define_metric(f"{section}/*", step_metric=point.axis)
        self._run.log({f"{point.chart}, {point.line}".replace("//", "/"): value, point.axis: point.step})
        self._note({"chart": point.chart, "line": point.line, "step": point.step})

    def flush(self) -> None:
        """See `Writer.flush`. wandb sends from a process of its own."""
        self._notes.flush()

    def replace_results(self, results: pd.DataFrame) -> None:
        """See `Writer.replace_results`. wandb shows the latest table."""
        table = self._wandb.Table(columns=list(results), data=results.to_numpy().tolist(), allow_mixed_types=True)
        self._run.log({RESULTS: table})
        for name, value in results.iloc[0].items():
            self._run.summary[f"best/{name}"] = value

    def close(self, *, failed: bool) -> None:
        """See `Writer.close`."""
        self._notes.close()
        self._run.finish(exit_code=int(failed))

    def _note(self, entry: Mapping[str, Any]) -> None:
        self._notes.write(json.dumps(entry) + "\n")


def open_writer(folder: Path, name: str, part: str, settings: Mapping[str, Any]) -> WandbWriter:
    """Start or continue the run of wandb that belongs to a run or to a part of it."""
    return WandbWriter(folder, name, part, settings)


def read_noted(path: Path) -> tuple[str, dict[tuple[str, str], set[int]]]:
    """Return the id of a run of wandb and the steps that it has. Damaged lines are skipped."""
    name, steps = token_hex(4), dict[tuple[str, str], set[int]]()
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []:
        try:
            entry = json.loads(line)
            if "id" in entry:
                name = str(entry["id"])
            else:
                steps.setdefault((entry["chart"], entry["line"]), set()).add(int(entry["step"]))
        except (ValueError, KeyError, TypeError):
            continue
    return name, steps
