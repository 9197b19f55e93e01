"""Everything that a report knows. The page, the terminal, the tables and the figures all show one `Report`.

`gather` reads runs and compares their selected cells. It trains nothing and needs no store.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...errors import MissingError
from ...runtime.text import utf8_text
from ..grid.cells import store_of
from ..planning.settings import unread_settings
from ..run.origin import Origin, read_origin
from ..run.predictions import ImageSet, read_images, read_predicted
from ..run.results import HEAD_COLUMNS, Run
from ..run.selection import mark_selected
from .advice import differing_settings, settings_without_effect, warnings_of
from .best import best_line
from .compare import Judged, judge
from .leaders import answers, find_leaders
from .summary import SELECTED_BY, best_row, summarise, tidy

KEY = [*SELECTED_BY, "layer"]
"""Columns that name a row of the summary."""
Key = tuple[str, str, str, str]
SAME_CELL = [
    "data", "setting", "layer", "head", "head_config", "tokens", "optimizer", "lr", "weight_decay", "shots", "seed",
]  # fmt: skip
"""Columns that name a cell across runs."""


@dataclass(frozen=True)
class Confusion:
    """What the selected head of a source takes each class for.

    Attributes:
        head: its readable name.
        layer: its layer.
        classes: names, by label.
        counts: (classes, classes) float64, the mean over seeds of the number of test images, by label and by predicted
            class. Images without a predicted class are missing.
    """

    head: str
    layer: str
    classes: list[str]
    counts: NDArray[np.float64]


@dataclass(frozen=True)
class Report:
    """The contents of a report over one or more runs.

    Attributes:
        runs: the runs.
        cells: one row per cell of all runs, from `tidy`.
        summary: one row per source, head, shots and layer, from `summarise`.
        leaders: the selected layer of each backbone and head, compared with the best; see `find_leaders`.
        answers: which backbone or head is best, in lines; of one run, also the cell that `--cell best` names.
        warnings: what to be careful about, in lines.
        judged: by source, head, shots and layer, which test images are right. Missing where no run keeps that.
        images: the test images of each source, where a run keeps them.
    """

    runs: Sequence[Run]
    cells: pd.DataFrame
    summary: pd.DataFrame
    leaders: pd.DataFrame
    answers: Sequence[str]
    warnings: Sequence[str]
    judged: Mapping[Key, Judged]
    images: Mapping[str, ImageSet]

    @property
    def sources(self) -> list[str]:
        """Backbones with their data sets, in the order of the runs."""
        return list(self.summary["source"].unique())

    def title(self, source: str) -> str:
        """Return the name of a source's panel: its backbone, and its data set if there are several."""
        rows = self.summary[self.summary["source"] == source]
        return source if self.summary["dataset"].nunique() > 1 else str(rows["backbone"].iloc[0])

    @property
    def specs(self) -> dict[str, str]:
        """The spec of each head, by its readable name."""
        return dict(zip(self.summary["head"], self.summary["spec"], strict=True))

    @property
    def looks(self) -> dict[str, str]:
        """The text that gives each head its look in figures, by its readable name."""
        return dict(zip(self.summary["head"], self.summary["look"], strict=True))

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row per selected cell and scored epoch, with the columns of both tables."""
        chosen = self.cells[self.cells["selected"]]
        tables = [run.history.assign(run=utf8_text(run.path)) for run in self.runs if not run.history.empty]
        if not tables:
            return pd.DataFrame()
        columns = [
            "run",
            "cell",
            "source",
            "head",
            "spec",
            "look",
            "shots",
            "layer",
            "seed",
            "figure",
            "best_epoch",
            "protocol",
        ]
        return pd.concat(tables, ignore_index=True).merge(chosen[columns], on=["run", "cell"])

    def chance(self, source: str) -> float:
        """Return the accuracy of a guess, or NaN if it is not known: 1 / classes."""
        return 1 / len(self.images[source].classes) if source in self.images else float("nan")

    def confusion(self, source: str) -> Confusion | None:
        """Return the confusion of the head that the protocol selects for the most data, or None without predictions."""
        row = best_row(self.summary[self.summary["source"] == source])
        if row is None or source not in self.images:
            return None
        images = self.images[source]
        chosen = self.cells[self.cells["selected"] & (self.cells[KEY] == row[KEY]).all(axis=1)]
        predicted = _predicted(self.runs, chosen, images)
        if not predicted:
            return None
        n = len(images.classes)
        counts = np.zeros((n, n))
        for classes in predicted:
            np.add.at(counts, (images.labels[classes >= 0], classes[classes >= 0]), 1 / len(predicted))
        return Confusion(row["head"], row["layer"], images.classes, counts)


def gather(runs: Sequence[Run]) -> Report:
    """Return the report of runs.

    A store in several runs is one backbone. A head that they trained with different settings is named with its run.

    Raises:
        MissingError: a run has no results.
        RunError: a file of a run is damaged.
    """
    cells = tidy(_cells_of(runs))
    summary = summarise(cells)
    images = _images(runs, cells)
    judged: dict[Key, Judged] = {}
    for key, chosen in cells[cells["selected"] & cells["source"].isin(images)].groupby(KEY, sort=False):
        of_images = images[key[0]]
        found = judge(of_images.ids, of_images.labels, _predicted(runs, chosen, of_images))
        judged |= {key: found} if found else {}
    leaders = find_leaders(summary, judged)
    settings = differing_settings(runs) if len(runs) > 1 else []
    warnings = [*settings, *settings_without_effect(runs), *warnings_of(cells, summary, images)]
    lines = list(answers(leaders, judged))
    best = best_line(runs[0], cells) if lines and len(runs) == 1 else None
    return Report(runs, cells, summary, leaders, [*lines, *filter(None, [best])], warnings, judged, images)


def _cells_of(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the results of all runs, with the columns `run`, and `data` and `setting` if there are several."""
    for run in runs:
        if run.results.empty:
            raise MissingError(
                f"run {str(run.path)!r} has no results; make some with probe fit, or wait for its first layer"
            )
    if len(runs) == 1:
        known = runs[0].results.assign(run=utf8_text(runs[0].path))
        if known.loc[known["lr"].notna(), "optimizer"].nunique() > 1:  # earlier versions selected one cell of each
            known["selected"] = mark_selected(known.assign(in_run=known["cell"].map(store_of)), HEAD_COLUMNS)
        return known
    tables = [_with_origin(run) for run in runs]
    together = pd.concat(tables, ignore_index=True).drop_duplicates(SAME_CELL, ignore_index=True)
    together["selected"] = mark_selected(together.assign(in_run=together["data"]), [*HEAD_COLUMNS, "setting"])
    return together


def _with_origin(run: Run) -> pd.DataFrame:
    """Return the results of a run with `run`, and with texts that are equal for equal cells, also in another run.

    `data` is the training and the test images of a cell, with their tokens. `setting` is every setting that its head
    reads, and the images that it is selected on.
    """
    origin = read_origin(run)
    assert origin is not None
    of_store, solved = run.results["cell"].map(store_of), run.results["lr"].isna()
    data = {name: _text({**store.fingerprints, "val": None}) for name, store in origin.stores.items()}
    settings = {is_solved: _settings(origin, is_solved) for is_solved in (False, True)}
    return run.results.assign(
        run=utf8_text(run.path),
        data=of_store.map(data),
        setting=of_store.map(settings[True]).where(solved, of_store.map(settings[False])),
    )


def _settings(origin: Origin, solved: bool) -> dict[str, str]:
    """Return what heads read besides tokens and labels, as text, by store."""
    unread = unread_settings(solved=solved)
    read = {key: value for key, value in origin.shared.items() if key not in unread}
    return {name: _text([store.fingerprints.get("val"), read]) for name, store in origin.stores.items()}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _images(runs: Sequence[Run], cells: pd.DataFrame) -> dict[str, ImageSet]:
    paths = {utf8_text(run.path): run for run in runs}
    found: dict[str, ImageSet] = {}
    for (source, run), of_both in cells.groupby(["source", "run"], sort=False):
        images = read_images(paths[run].path, store_of(of_both["cell"].iloc[0]))
        if images is not None:
            found.setdefault(source, images)
    return found


def _predicted(runs: Sequence[Run], chosen: pd.DataFrame, images: ImageSet) -> list[NDArray[np.int64]]:
    """Return what cells that differ in their seeds predict, one array per cell. If one has no file, return none."""
    paths = {utf8_text(run.path): run.path for run in runs}
    found = [read_predicted(paths[row.run], row.cell, images, row.test_top1) for row in chosen.itertuples()]
    kept = [each for each in found if each is not None]
    return kept if len(kept) == len(found) else []
