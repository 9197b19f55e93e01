"""The best cells so far, for people who watch a fit: a table on a terminal, the first of them in plain lines.

Cells are ranked by the figure that the protocol selects by: on held-out images, or on the test split under "paper".
"""

from collections.abc import Iterable, Mapping
from heapq import nlargest
from math import isnan
from typing import Any, Literal, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ...runtime.text import printable
from ..batches.layer_set import abbreviated
from ..run.results import HELD_OUT, LEFT_OUT, TEST
from ..run.selection import FIGURES

N_SHOWN = 5
WORDS = {
    HELD_OUT: "on held-out images",
    LEFT_OUT: "on left-out training images",
    TEST: "on the test split, as protocol paper selects",
}
COLUMNS = {
    "source": "backbone",
    "layer": "layer",
    "head": "head",
    "shots": "shots",
    "rate": "rate",
    "figure": "%",
    "best_epoch": "at epoch",
    "epoch": "trained",
}
"""Headings of the table, by field of `Standing`."""
ONLY_IF_MANY = ("source", "shots")
"""Columns that are left out if all cells have the same value."""
NUMBERS = ("figure", "best_epoch", "epoch")
MAY_SHRINK = ("source", "layer", "head")
"""Columns that a narrow terminal cuts."""
Row = Mapping[str, Any]


class Standing(NamedTuple):
    """The figure of a cell so far, and the texts that tell the cell.

    Attributes:
        source: the backbone.
        layer: that the head reads.
        head: its spec.
        shots: the training images.
        rate: the base learning rate, or the penalty.
        figure: the one that selection uses, a fraction, at the best epoch so far.
        best_epoch: of the figure; empty for a head without epochs.
        epoch: the one reached, of all; likewise.
    """

    source: str
    layer: str
    head: str
    shots: str
    rate: str
    figure: float
    best_epoch: str
    epoch: str


class Board:
    """Ranks cells, one per backbone, layer, head and number of shots: its best rate and seed so far."""

    def __init__(self, protocol: str) -> None:
        """Start without cells.

        Args:
            protocol: that chooses the figure.
        """
        self._split = "val" if protocol == "select" else "test"
        self._selected_on: dict[str, None] = {}
        self._standings: dict[str, Standing] = {}
        self._best: list[Standing] | None = []
        self._shown: list[str] = []

    def update(self, rows: Iterable[Row]) -> None:
        """Take rows of the results, of finished cells, or of others with the `epoch` that they have reached.

        A cell that diverged, or that has no figure, leaves the board.
        """
        for row in rows:
            self._selected_on[row.get("selected_on") or (HELD_OUT if self._split == "val" else TEST)] = None
            figure = self._figure(row)
            if figure is None:
                self._standings.pop(row["cell"], None)
            else:
                self._standings[row["cell"]] = _standing(figure, row)
        self._best = None

    def best(self) -> list[Standing]:
        """Return the best cells, the best first."""
        if self._best is None:
            self._rank()
        return self._best or []

    def line(self) -> str:
        """Return the best cell in a few words; empty if there is none."""
        if not (best := self.best()):
            return ""
        first = {name: _text(best[0], name) for name in self._shown}
        where = [first.get("source"), f"layer {first['layer']}", first["head"], first["rate"]]
        return f"best {first['figure']} % ({', '.join(filter(None, where))})"

    def table(self, speed: str = "") -> RenderableType | None:
        """Return a table of the best cells below a line about it, or None if there are none.

        Args:
            speed: words for the line.
        """
        if not (best := self.best()):
            return None
        table = Table(box=None, header_style="dim", pad_edge=False)
        for name in self._shown:
            justify: Literal["left", "right"] = "right" if name in NUMBERS else "left"
            table.add_column(COLUMNS[name], justify=justify, no_wrap=name not in MAY_SHRINK)
        for each in best:
            table.add_row(*(Text(_text(each, name), no_wrap=True, overflow="ellipsis") for name in self._shown))
        about = "  ".join(filter(None, [f"best so far, {' or '.join(WORDS[on] for on in self._selected_on)}", speed]))
        return Group(Text(about, "dim", no_wrap=True, overflow="ellipsis"), table)

    def _figure(self, row: Row) -> float | None:
        if str(row.get("status", "")).startswith("diverged"):
            return None
        found = (row.get(f"{self._split}_{name}") for name in FIGURES)
        return next((float(each) for each in found if each is not None and not isnan(each)), None)

    def _rank(self) -> None:
        """Find the best cells, and the columns that tell them. This looks at every cell, so it waits until asked."""
        of_head: dict[tuple[str, ...], Standing] = {}
        for each in self._standings.values():
            known = of_head.setdefault(each[:4], each)
            if each.figure > known.figure:
                of_head[each[:4]] = each
        self._best = nlargest(N_SHOWN, of_head.values(), key=lambda each: each.figure)
        several = {name for name in ONLY_IF_MANY if len({getattr(each, name) for each in of_head.values()}) > 1}
        self._shown = [name for name in COLUMNS if name not in ONLY_IF_MANY or name in several]


def _standing(figure: float, row: Row) -> Standing:
    lr, decay, best, epochs = (row.get(name) for name in ("lr", "weight_decay", "best_epoch", "epochs"))
    return Standing(
        row["name"] or row["model"],
        row["layer"],
        f"{row['head']}:{row['head_config']}" if row["head_config"] else row["head"],
        row["shots"],
        f"lr {lr:g}" if lr is not None else f"penalty {decay:g}" if decay is not None else "",
        figure,
        "" if best is None else str(best),
        "" if epochs is None else f"{row.get('epoch', epochs)}/{epochs}",
    )


def _text(each: Standing, name: str) -> str:
    if name == "figure":
        return f"{100 * each.figure:.1f}"
    text: str = getattr(each, name)
    return printable(abbreviated(text) if name == "layer" else text)
