"""The choice of a cell's reported epoch, and of a sweep's reported cell.

Protocol "select" chooses both by the figure on held-out images. The test split is only reported.
Protocol "paper" chooses both by the figure on the test split itself, as published tables do.

The figure is top-1 accuracy, or mean average precision ("map") if images have several labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isnan
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SWEPT = ["optimizer", "lr", "weight_decay"]
"""Columns of the choices among which one is selected."""
FIGURES = ("top1", "map")
Scores = Mapping[str, float]


@dataclass
class EpochTracker:
    """The scored epochs of one cell.

    Attributes:
        protocol: decides which figure counts.
        picks: whether a figure chooses the epoch; if not, the last one counts.
        epochs: the scored epochs, counted from 1.
        val: validation scores after each; empty under "paper".
        test: test scores after each.
        diverged: the scored epoch at which the loss or a weight was found not finite, or None.
        cause: the cause of that, if it is known.
    """

    protocol: str
    picks: bool = True
    epochs: list[int] = field(default_factory=list)
    val: list[Scores] = field(default_factory=list)
    test: list[Scores] = field(default_factory=list)
    diverged: int | None = None
    cause: str | None = None

    def add(self, epoch: int, val: Scores | None, test: Scores) -> bool:
        """Add one epoch, and return whether it is the best so far. The first of equal epochs is the best."""
        self.epochs.append(epoch)
        self.test.append(test)
        if val is not None:
            self.val.append(val)
        return self.best == len(self.epochs) - 1

    @property
    def best(self) -> int:
        """Index of the reported epoch in `epochs`."""
        if not self.picks:
            return len(self.epochs) - 1
        figures = [figure(scores) for scores in (self.val if self.protocol == "select" else self.test)]
        counted = [-inf if isnan(value) else value for value in figures]
        return max(range(len(counted)), key=counted.__getitem__)

    @property
    def status(self) -> str:
        """The status of the cell, for the results."""
        if self.diverged is None:
            return "trained"
        return f"diverged in epoch {self.diverged}" + (f": {self.cause}" if self.cause else "")

    def row(self) -> dict[str, Any]:
        """Return the columns of the results. For a diverged cell they describe the epochs before."""
        if not self.epochs:
            return {"best_epoch": None, "status": self.status}
        best = self.best
        row = score_columns(self.val[best] if self.val else None, self.test[best])
        name, figures = figure_name(self.test[0]), [figure(scores) for scores in self.test]
        return row | {
            f"last_test_{name}": figures[-1],
            f"peak_test_{name}": max(figures),
            "best_epoch": self.epochs[best],
            "status": self.status,
        }


def figure_name(scores: Scores) -> str:
    """Return the name of the score that selection uses: the first of FIGURES in `scores`."""
    return next(name for name in FIGURES if name in scores)


def figure(scores: Scores) -> float:
    """Return the score that selection uses."""
    return scores[figure_name(scores)]


def score_columns(val: Scores | None, test: Scores) -> dict[str, float]:
    """Return the columns of the results that hold one evaluation."""
    name = figure_name(test)
    columns = {f"test_{key}": value for key, value in test.items()}
    return (
        columns
        | {f"last_test_{name}": test[name], f"peak_test_{name}": test[name]}
        | {f"val_{key}": value for key, value in (val or {}).items() if key in (name, "unscored", "loss")}
    )


def mark_selected(results: "pd.DataFrame", group_by: Sequence[str]) -> "pd.Series[bool]":
    """Return which cells are selected: one optimizer, rate and weight decay per group, the same for all seeds.

    The choice has the best mean figure over seeds, or the least mean loss where all cells of a group have `val_loss`: a
    loss tells penalties apart that hit the same few images. Of equal choices the smallest wins: the first optimizer by
    name, then the smallest rate. Choices at which a cell diverged are never chosen.

    Args:
        results: one row per cell.
        group_by: columns that define the groups.
    """
    import pandas as pd  # takes longer than a small fit's first step, and is needed after its last

    counted = pd.Series(float("nan"), index=results.index)
    for name in FIGURES:
        by_val, by_test = (results[f"{split}_{name}"].astype(float) for split in ("val", "test"))
        counted = counted.fillna(by_val.where(results["protocol"] == "select", by_test))
    has_loss = results["val_loss"].notna().groupby([results[name] for name in group_by]).transform("all")
    counted = counted.mask(has_loss, -results["val_loss"].astype(float))
    counted = counted.mask(results["status"].str.startswith("diverged"))
    keys = [results[name].fillna(-1) if name in SWEPT else results[name] for name in [*group_by, *SWEPT]]
    choices = counted.groupby(keys).agg(lambda figures: figures.mean(skipna=False)).dropna()
    best = set(choices.groupby(level=list(range(len(group_by)))).idxmax())
    return pd.Series([row in best for row in zip(*keys, strict=True)], index=results.index)
