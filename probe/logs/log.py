"""What is logged of a fit. A thousand cells do not make a thousand charts.

Cells that differ only in rates and seeds train together. At each scoring, the best of them by the protocol's figure
is the point of their curve. So there is one chart per layer, and one line per head in it. Another chart has the best
figure over layers. At the end come the selected cells as a table, means over seeds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...runtime.text import printable
from ..batches.subsets import FULL
from ..grid.cells import shortened, store_of
from .contract import Point, Writer

if TYPE_CHECKING:
    import pandas as pd

LOGS = ("tensorboard", "wandb")
"""Each is a file of this folder, a package, and an extra of tokenprobe."""
MOST_CURVES = 200
"""Most pairs of a layer and a line that have curves."""
LONGEST_LINE = 200
"""Most bytes in the name of a line."""
MOST_ROWS = 10_000
"""Most rows of the table of results."""
CHOICE = [
    "backbone", "model", "dataset", "layer", "head", "head_config", "shots", "optimizer", "lr", "weight_decay",
    "protocol",
]  # fmt: skip
"""Columns of the results that tell the choices of the protocol."""
SPLITS = {"select": ("val", "held-out"), "paper": ("test", "test")}
"""By protocol, the split whose figure it selects by, in columns and in words."""
FIGURES = {"top1": "top-1", "map": "mAP"}
Row = Mapping[str, Any]

logger = logging.getLogger(__name__)


def check_log(name: str | None) -> None:
    """Refuse a log whose package is not installed.

    Raises:
        InputError: it is missing; the message says what to install.
    """
    if name is not None and find_spec(name) is None:
        raise InputError(f"--log {name} needs the package {name}: pip install 'tokenprobe[{name}]'")


@contextmanager
def open_log(
    name: str | None, run: Path, part: str = "", settings: Mapping[str, Any] | None = None
) -> Iterator[Log | None]:
    """Open the log of a run, and go on with what it holds.

    Args:
        name: one of `LOGS`, or None for no log.
        run: folder of the run.
        part: name of the part of the run that this process fits; empty if it fits all.
        settings: of the fit, to show beside its curves.

    Raises:
        InputError: the service refuses; the message says what to do.
    """
    if name is None:
        yield None
        return
    check_log(name)
    writer = import_module(f".{name}", __package__).open_writer(run / name, run.resolve().name, part, settings or {})
    failed = True
    try:
        yield Log(writer)
        failed = False
    finally:
        writer.close(failed=failed)


class Log:
    """Chooses what a writer gets. Each point is written once, also by a fit that continues after a crash."""

    def __init__(self, writer: Writer) -> None:
        """Go on with what earlier sessions have written."""
        self._writer = writer
        self._steps = {key: set(steps) for key, steps in writer.steps().items()}
        self._curves: set[tuple[str, str]] = set()
        self._told = False

    def scored(self, rows: Sequence[Row], history: Sequence[Row]) -> None:
        """Take the scores of cells of one backbone, layer and number of shots that train together.

        Args:
            rows: of the results so far, one per cell.
            history: of this epoch, one per cell that is alive; empty for cells without epochs.
        """
        heads = dict.fromkeys((row["head"], row["head_config"]) for row in rows)  # one search serves every k of k-NN
        for head in heads:
            own = [row for row in rows if (row["head"], row["head_config"]) == head]
            cells = {row["cell"] for row in own}
            self._scored_head(own, [row for row in history if row["cell"] in cells])
        self._writer.flush()

    def _scored_head(self, rows: Sequence[Row], history: Sequence[Row]) -> None:
        split, words = SPLITS[rows[0]["protocol"]]
        line, layer = line_of(rows), rows[0]["layer"]
        if not self._has_room(line, layer):
            return
        where, known = _layer_words(layer), [(found, row) for row in history if (found := _figure(row, split))]
        if known:
            (name, value), best = max(known, key=lambda each: each[0][1])
            title = f"{words} {FIGURES[name]}"
            self._add(Point(f"{title}/{where}", line, "epoch", best["epoch"]), value)
            self._add(Point(f"training loss/{where}", line, "epoch", best["epoch"]), best["train_loss"])
            spread = Point(f"{title}, all rates and seeds/{where}", line, "epoch", best["epoch"])
            if len(known) > 1 and self._is_new(spread):
                self._writer.add_spread(spread, [figure for (_, figure), _ in known])
        ended = all(row.get("epoch") == row.get("epochs") for row in rows)
        bests = [found for row in rows if not _has_diverged(row) and (found := _figure(row, split))]
        if ended and bests and layer.isdecimal():
            name, value = max(bests, key=lambda each: each[1])
            self._add(Point(f"best of each layer/{words} {FIGURES[name]}", line, "layer", int(layer)), value)

    def finish(self, results: pd.DataFrame) -> None:
        """Write the selected cells of a run.

        Args:
            results: one row per cell, with the columns of `results.csv`.
        """
        chosen = choices_of(results)
        if len(chosen):
            self._writer.replace_results(chosen)

    def _add(self, point: Point, value: float) -> None:
        if not isnan(value) and self._is_new(point):
            self._writer.add(point, value)

    def _is_new(self, point: Point) -> bool:
        """Whether a point was not written yet. From now on, it was."""
        steps = self._steps.setdefault((point.chart, point.line), set())
        is_new = point.step not in steps
        steps.add(point.step)
        return is_new

    def _has_room(self, line: str, layer: str) -> bool:
        if (line, layer) not in self._curves and len(self._curves) == MOST_CURVES:
            if not self._told:
                logger.warning(
                    f"the log has curves of {MOST_CURVES} pairs of a layer and a head, and takes no more; the others "
                    "are in its table of results and in history.parquet"
                )
            self._told = True
            return False
        self._curves.add((line, layer))
        return True


def choices_of(results: pd.DataFrame) -> pd.DataFrame:
    """Return the selected cells of a run, means over seeds, the best first. Missing values are None."""
    chosen = results[results["selected"].astype(bool)]
    chosen = chosen.assign(backbone=chosen["name"].where(chosen["name"] != "", chosen["cell"].map(store_of)))
    figures = [f"{split}_{name}" for split in ("val", "test") for name in FIGURES]
    known = [name for name in figures if chosen[name].notna().any()]
    grouped = chosen.groupby(CHOICE, dropna=False, sort=False)
    table = grouped[known].mean().assign(seeds=grouped.size()).reset_index()
    by = [name for name in known if name.startswith("val" if (table["protocol"] == "select").all() else "test")]
    table = table.sort_values(by, ascending=False, kind="stable").head(MOST_ROWS) if by else table
    return table.astype(object).where(table.notna(), None)


def _has_diverged(row: Row) -> bool:
    return str(row.get("status", "")).startswith("diverged")


def _figure(row: Row, split: str) -> tuple[str, float] | None:
    """Return the name and the value of the figure of a split, or None if it is not known."""
    found = ((name, row.get(f"{split}_{name}")) for name in FIGURES)
    return next(((name, float(value)) for name, value in found if value is not None and not isnan(value)), None)


def _layer_words(layer: str) -> str:
    return f"layer {int(layer):02d}" if layer.isdecimal() else f"layers {layer}"


def line_of(rows: Sequence[Row]) -> str:
    """Return the name of a line, which may name a folder: the backbone, the head, and what its best is the best of."""
    first = rows[0]
    parts = [f"{first['head']}:{first['head_config']}" if first["head_config"] else first["head"]]
    parts += [] if first["shots"] == FULL else [f"shots {first['shots']}"]
    decay = "weight decay" if first["lr"] is not None else "penalty"
    for name, words in (("lr", "lr"), ("weight_decay", decay), ("seed", "seed")):
        values = sorted({row[name] for row in rows if row[name] is not None})
        if len(values) > 1:
            parts.append(f"{words} {values[0]:g} to {values[-1]:g}")
        elif values and values[0]:
            parts.append(f"{words} {values[0]:g}")
    text = f"{first['name'] or store_of(first['cell'])} {', '.join(parts)}"
    return shortened(printable(text).replace("/", "_"), LONGEST_LINE)
