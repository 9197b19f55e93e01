"""Which epoch of a cell is reported, and which cell of a sweep.

Protocol "select": both by accuracy on training images held out for that; the test split is only reported.
Protocol "paper": both by accuracy on the test split itself, as the published tables do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

PROTOCOLS = ("select", "paper")
SWEPT = ["lr", "weight_decay"]


@dataclass
class EpochTracker:
    """The epochs of one cell.

    Attributes:
        protocol: decides which accuracy counts.
        val_top1: after each epoch; empty under "paper".
        test_top1: after each epoch.
        test_top5: after each epoch.
    """

    protocol: str
    val_top1: list[float] = field(default_factory=list)
    test_top1: list[float] = field(default_factory=list)
    test_top5: list[float] = field(default_factory=list)

    def add(self, val_top1: float | None, test_top1: float, test_top5: float) -> bool:
        """Take one epoch; return whether it is the best so far. Of equals the first is the best."""
        if val_top1 is not None:
            self.val_top1.append(val_top1)
        self.test_top1.append(test_top1)
        self.test_top5.append(test_top5)
        return self.best_epoch == len(self.test_top1)

    @property
    def best_epoch(self) -> int:
        """The epoch that is reported, counted from 1."""
        counted = self.val_top1 if self.protocol == "select" else self.test_top1
        return max(range(len(counted)), key=counted.__getitem__) + 1

    def row(self) -> dict[str, float | int | None]:
        """Return the accuracy columns of the results."""
        best = self.best_epoch - 1
        return {
            "val_top1": self.val_top1[best] if self.val_top1 else None,
            "test_top1": self.test_top1[best],
            "test_top5": self.test_top5[best],
            "last_test_top1": self.test_top1[-1],
            "peak_test_top1": max(self.test_top1),
            "best_epoch": self.best_epoch,
        }


def mark_selected(results: pd.DataFrame, group_by: Sequence[str]) -> "pd.Series[bool]":
    """Return which cells are selected: in each group one learning rate and weight decay, for all seeds alike.

    The best by accuracy, meaned over seeds; of equals the smallest.

    Args:
        results: one row a cell.
        group_by: columns within which learning rate and weight decay were swept.
    """
    counted = results["val_top1"].where(results["protocol"] == "select", results["test_top1"]).astype(float)
    choices = counted.groupby([results[name] for name in [*group_by, *SWEPT]]).mean()
    best = set(choices.groupby(level=list(group_by)).idxmax())
    return pd.Series([row in best for row in zip(*(results[name] for name in choices.index.names), strict=True)])
