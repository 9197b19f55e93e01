"""The fit of one group: its trainer, its regime, and the scores of its cells so far."""

from collections.abc import Sequence
from typing import Any

import torch

from ..grid.cells import CellGroup
from ..grid.regimes import Regime
from ..planning.plan import Plan
from ..run.selection import EpochTracker, Scores, figure_name
from ..training.group import Group
from ..training.metrics import Counter
from ..training.replay import Recorder


class GroupFit:
    """A group in training, and the scores of its cells.

    Attributes:
        group: the stacked cells.
        regime: the regime of all cells.
        trackers: one per cell.
        history: one row per cell and scored epoch.
        predicted: (H, n) integers, the class of each test image at each cell's best epoch; see `Counter.predicted`.
            None before the first scoring, and if images have several labels.
    """

    def __init__(self, group: Group, regime: Regime, protocol: str) -> None:
        """Start before the first epoch."""
        self.group, self.regime = group, regime
        self.trackers = [EpochTracker(protocol, protocol == "paper" or regime.picks_epoch) for _ in group.cells]
        self.history: list[dict[str, Any]] = []
        self.predicted: torch.Tensor | None = None

    def keep(self, epoch: int, val: Counter | None, test: Counter, alive: Sequence[bool]) -> list[dict[str, Any]]:
        """Record the scores after an epoch, and keep the weights and the predicted classes of cells that improved.

        Returns:
            The new rows of the history.
        """
        n_before = len(self.history)
        losses, tests = self.group.take_losses(), test.scores()
        vals: Sequence[Scores | None] = val.scores() if val is not None else [None] * len(tests)
        improved = []
        for cell, tracker, loss, lives, scores in zip(
            self.group.cells, self.trackers, losses, alive, zip(vals, tests, strict=True), strict=True
        ):
            goes_on = lives and tracker.diverged is None
            if goes_on:
                self.history.append(_history_row(cell.name, epoch, loss, *scores))
            elif tracker.diverged is None:
                tracker.diverged = epoch
                self.history.append({"cell": cell.name, "epoch": epoch, "train_loss": loss})
            improved.append(goes_on and tracker.add(epoch, *scores))
        self.group.keep_best(improved)
        predicted, mask = test.predicted(), torch.tensor(improved)
        if predicted is not None:
            self.predicted = (
                predicted if self.predicted is None else torch.where(mask[:, None], predicted, self.predicted)
            )
        return self.history[n_before:]

    @property
    def diverged_at_once(self) -> bool:
        """Whether every cell diverged before its first scoring."""
        return not any(tracker.epochs for tracker in self.trackers)

    def explain(self, cause: str | None) -> None:
        """Record why all cells diverged."""
        for tracker in self.trackers:
            tracker.cause = cause

    def state(self) -> dict[str, Any]:
        """Return the state that a checkpoint needs, as tensors and plain values."""
        trackers = [
            {"epochs": t.epochs, "val": [*map(dict, t.val)], "test": [*map(dict, t.test)], "diverged": t.diverged}
            for t in self.trackers
        ]
        kept = {"trackers": trackers, "history": self.history, "predicted": self.predicted}
        return {"group": self.group.state(), **kept}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state` returned."""
        self.group.load_state(state["group"])
        self.trackers = [
            EpochTracker(old.protocol, old.picks, **values)
            for old, values in zip(self.trackers, state["trackers"], strict=True)
        ]
        self.history, self.predicted = state["history"], state["predicted"]


def start_fit(plan: Plan, cells: CellGroup, device: torch.device, recorder: Recorder | None = None) -> GroupFit:
    """Draw the initial weights of a group on a device. The groups of a pass share `recorder`."""
    group = Group(cells.cells, plan.group_setup(cells, device), recorder)
    return GroupFit(group, cells.regime, plan.config.protocol)


def _history_row(cell: str, epoch: int, loss: float, val: Scores | None, test: Scores) -> dict[str, Any]:
    name = figure_name(test)
    row = {"cell": cell, "epoch": epoch, "train_loss": loss, f"test_{name}": test[name]}
    return row | ({f"val_{name}": val[name]} if val is not None else {})
