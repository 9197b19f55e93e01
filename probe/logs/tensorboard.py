"""TensorBoard: event files in `RUN/tensorboard/`, one folder per line of the charts, and one per row of the results."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .contract import Point, Writer

if TYPE_CHECKING:
    import pandas as pd
    from torch.utils.tensorboard import SummaryWriter

RESULTS = "results"
"""Folder of the results, beside those of the lines."""
MOST_RESULTS = 100
"""Most rows of the results: each is a folder, and a line of the page HPARAMS."""


class TensorBoardWriter(Writer):
    """Writes event files. What they hold already is read back when a fit continues."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Write into a folder. Files that are there stay."""
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._settings, self._make = folder, settings, SummaryWriter
        self._writers: dict[str, SummaryWriter] = {}

    def steps(self) -> dict[tuple[str, str], set[int]]:
        """See `Writer.steps`."""
        return steps_in(self._folder) if self._folder.is_dir() else {}

    def add(self, point: Point, value: float) -> None:
        """See `Writer.add`."""
        self._writer(point.line).add_scalar(point.chart, value, point.step)

    def add_spread(self, point: Point, values: Sequence[float]) -> None:
        """See `Writer.add_spread`."""
        self._writer(point.line).add_histogram(point.chart, np.array(values), point.step)

    def flush(self) -> None:
        """See `Writer.flush`."""
        for writer in self._writers.values():
            writer.flush()

    def replace_results(self, results: pd.DataFrame) -> None:
        """See `Writer.replace_results`. The folder of an earlier session's results goes."""
        folder = self._folder / RESULTS
        shutil.rmtree(folder, ignore_errors=True)
        shown = results.head(MOST_RESULTS)
        with self._make(str(folder)) as writer:
            writer.add_text(RESULTS, as_markdown(shown), 0)
            writer.add_text("settings", as_markdown_list(self._settings), 0)
        for number, row in enumerate(shown.to_dict("records")):
            self._write_row(folder / f"{number:03d} {row['head']} layer {row['layer']}", row)

    def close(self, *, failed: bool) -> None:
        """See `Writer.close`."""
        for writer in self._writers.values():
            writer.close()

    def _write_row(self, folder: Path, row: Mapping[str, Any]) -> None:
        """Write one row as a session of the page HPARAMS."""
        from torch.utils.tensorboard.summary import hparams

        figures = {f"results/{name}": value for name, value in row.items() if name.startswith(("val_", "test_"))}
        choices = {name: value for name, value in row.items() if f"results/{name}" not in figures}
        known = {name: value for name, value in figures.items() if value is not None}
        with self._make(str(folder)) as writer:
            for summary in hparams({name: value for name, value in choices.items() if value is not None}, known):
                writer.file_writer.add_summary(summary)
            for name, value in known.items():
                writer.add_scalar(name, value, 0)

    def _writer(self, line: str) -> SummaryWriter:
        if line not in self._writers:
            self._writers[line] = self._make(str(self._folder / line))
        return self._writers[line]


def open_writer(folder: Path, name: str, part: str, settings: Mapping[str, Any]) -> TensorBoardWriter:
    """Open the event files of a run. Parts share the folder: each process has its own files."""
    return TensorBoardWriter(folder, settings)


def steps_in(folder: Path) -> dict[tuple[str, str], set[int]]:
    """Return the steps of all numbers and distributions in event files, by chart and line."""
    from tensorboard.backend.event_processing.event_accumulator import HISTOGRAMS, SCALARS, EventAccumulator

    found: dict[tuple[str, str], set[int]] = {}
    for line in sorted(path for path in folder.iterdir() if path.is_dir() and path.name != RESULTS):
        events = EventAccumulator(str(line), {SCALARS: 0, HISTOGRAMS: 0})
        events.Reload()
        for kind, read in ((SCALARS, events.Scalars), (HISTOGRAMS, events.Histograms)):
            for chart in events.Tags()[kind]:
                found[chart, line.name] = {event.step for event in read(chart)}
    return found


def as_markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown. No text in it can end its cell."""
    rows = [list(table), ["---"] * len(table.columns), *(map(_cell, row) for row in table.itertuples(index=False))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def as_markdown_list(settings: Mapping[str, Any]) -> str:
    """Return settings as a list in Markdown."""
    return "\n".join(f"* {name}: {_cell(value)}" for name, value in settings.items())


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
