"""The plan of a fit: every decision before the first step, except the choice of the machine."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from ...runtime.text import counted
from ..batches.data import Data
from ..batches.lacking import describe_lacking
from ..batches.subsets import FULL
from ..batches.token_shape import TokenShape
from ..config import FitConfig
from ..grid.cells import Cell, CellGroup, Grid
from ..grid.regimes import Regime
from ..grid.unused import STEPS, unused_settings
from ..training.group import GroupSetup


@dataclass(frozen=True)
class Plan:
    """A completely specified fit of one store. It can be pickled, and holds no device.

    Attributes:
        config: as given.
        data: the splits.
        grid: the cells and their regimes.
        precision: "float32", or the type that matrix products are rounded to.
        label: the name that people chose for the store, or empty.
    """

    config: FitConfig
    data: Data
    grid: Grid
    precision: str
    label: str = ""

    @property
    def name(self) -> str:
        """The store's name in the run."""
        return self.grid.store

    def named(self, name: str) -> "Plan":
        """Return the same plan with another name for its store."""
        return replace(self, grid=replace(self.grid, store=name))

    def input_shape(self, cell: Cell) -> TokenShape:
        """Return the shape of the arrays that a cell's head reads."""
        return cell.head.input_shape(self.data.shape(cell.layers))

    def group_setup(self, group: CellGroup, device: torch.device) -> GroupSetup:
        """Return the setup for training a group on a device."""
        return GroupSetup(
            self.input_shape(group.cells[0]),
            self.data.n_classes,
            batch_size=group.regime.batch_size,
            device=device,
            precision=self.precision,
            multi_label=self.data.multi_label,
            clip_grad=self.config.clip_grad,
            class_weights=self._class_weights(group.regime),
        )

    def _class_weights(self, regime: Regime) -> tuple[float, ...] | None:
        """Return n / (C · n_c) for each class c, and 0 for classes without training images."""
        if self.config.class_weights == "none":
            return None
        counts = np.bincount(self.data.train.labels[regime.train_rows], minlength=self.data.n_classes)
        return tuple(counts.sum() / (len(counts) * n) if n else 0.0 for n in counts.tolist())

    def about(self) -> list[str]:
        """Return the decisions in words, one line per size of training set."""
        n_test, lines = len(self.data.test), []
        for shots in self.grid.shots:
            of_shots = [regime for regime in self.grid.regimes if regime.shots == shots]
            regime = of_shots[0]
            n_train, n_val = len(regime.train_rows), len(regime.val_rows)
            n_repeats = regime.epochs // self.config.epochs
            line = f"{n_train:,} training, {n_val:,} held-out and {counted(n_test, 'test image')}"
            if shots != FULL:
                line = f"shots {shots}, {counted(len(of_shots), 'seed')}: {line}"
            if self.config.batch_size != regime.batch_size:
                warmup = f"warm-up {regime.warmup_epochs / n_repeats:.3g} of {counted(self.config.epochs, 'epoch')}"
                line += f"; batch size {regime.batch_size}, {warmup}"
            if n_repeats > 1:
                line += f", each {n_repeats} times over the images"
            if len(regime.scored) < self.config.epochs:
                line += f", scored {counted(len(regime.scored), 'time')}"
            lines.append(line)
        lines += self.warnings()
        if self.config.protocol == "paper":
            lines.append("protocol paper: the reported accuracy is the best epoch on the test split itself")
        return lines

    def warnings(self) -> list[str]:
        """Return the lines of `about` that warn: about classes without training images, and settings without effect."""
        settings = {name: getattr(self.config, name) for name in STEPS}
        return [*self.lacking(), *unused_settings(settings, [head.name for head in self.grid.heads])]

    def lacking(self) -> list[str]:
        """Return the lines about classes without training images.

        A subset gets its own line only if it lacks other classes than full data and the earlier subsets.
        """
        said: dict[str, str] = {}
        for regime in self.grid.regimes:
            line = self._lacking_line(regime)
            if line and line not in said:
                said[line] = "" if regime.shots == FULL else f"shots {regime.shots}, seed {regime.seeds[0]}: "
        return [where + line for line, where in said.items()]

    def _lacking_line(self, regime: Regime) -> str | None:
        data = self.data
        scored = {"test": data.test.labels, "held-out": data.val.labels[regime.val_rows]}
        return describe_lacking(data.train.labels[regime.train_rows], scored, data.train.classes)
