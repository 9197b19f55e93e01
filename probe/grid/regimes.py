"""Regimes: full data or one low-shot subset, with the schedule of its cells.

All cells on full data share one regime. Every low-shot subset has its own regime with one seed. The seed draws both the
subset and the initialisation.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from ...errors import InputError
from ...store.order import RowNumbers
from ..batches.data import SUBSETS, TEST, TRAIN, VAL, Data
from ..batches.order import batch_sizes
from ..batches.subsets import FULL, at_most_as_many, folds_of, hold_out, subset
from ..config import FitConfig

PUBLISHED_BATCH, PUBLISHED_WARMUP = 4096, 10.0

MOST_FOLDS = 5
"""Folds of a cross-validation within a subset."""
FEW_IMAGES = 100
"""Held-out images below which a selection rests on few: one of them is more than a point."""
LEAST_SCORINGS = 10
"""Least number of scorings on a small subset. Training on it is much cheaper than scoring the test split, so it is
scored this often, or more often if scoring costs no more than training."""


@dataclass(frozen=True, eq=False)
class Regime:
    """The training rows and the schedule of cells that see the same batches.

    Attributes:
        shots: "full", "16" or "0.1", as in the results.
        seeds: seeds of the cells.
        train_rows: sorted rows of the training split.
        val_rows: sorted rows to select on, in the split that holds them.
        batch_size: images per step.
        epochs: passes over the training rows.
        warmup_epochs: epochs in which the rate rises linearly.
        scored: epochs after which all cells are scored, counted from 1; the last is `epochs`.
        folds: the fold of each training row, from `folds_of`, if solvers choose within these rows.
    """

    shots: str
    seeds: tuple[int, ...]
    train_rows: RowNumbers
    val_rows: RowNumbers
    batch_size: int
    epochs: int
    warmup_epochs: float
    scored: tuple[int, ...]
    folds: RowNumbers | None = None

    @property
    def n_left_out(self) -> int:
        """Training rows that solvers are scored on, each by a fit without it; 0 to score them on the held-out rows."""
        return 0 if self.folds is None else int((self.folds >= 0).sum())

    @property
    def n_folds(self) -> int:
        """Folds of the training rows."""
        return 0 if self.folds is None else int(self.folds.max()) + 1

    @property
    def lone(self) -> bool:
        """Whether solvers should choose within these rows and cannot: no class has a second image."""
        return self.folds is not None and not self.n_left_out

    @property
    def picks_epoch(self) -> bool:
        """Whether held-out rows choose the epoch. A few of them say less than the end of the schedule."""
        return self.shots == FULL or len(self.val_rows) >= FEW_IMAGES

    @property
    def n_steps(self) -> int:
        """Steps in one epoch."""
        return len(batch_sizes(len(self.train_rows), self.batch_size, drop_last=True))

    def epochs_before(self, scoring: int) -> Iterator[int]:
        """Yield the epochs, counted from 0, between the previous scoring and this one."""
        yield from range(self.scored[scoring - 1] if scoring else 0, self.scored[scoring])


def make_regimes(data: Data, config: FitConfig, shots: Sequence[str]) -> list[Regime]:
    """Return the regimes: one for full data and all seeds, and one per subset and seed.

    Args:
        data: the splits.
        config: of the fit.
        shots: from `parse_shots`.

    Raises:
        InputError: too few images in all or in a class, or no held-out image of a multi-label set has a label.
    """
    train_rows, val_rows = _split_rows(data, config)
    seeds = tuple(range(config.seeds))
    regimes = []
    for shot in shots:
        for of_regime in [seeds] if shot == FULL else [(seed,) for seed in seeds]:
            rows = subset(data.train.labels, train_rows, shot, of_regime[0], data.train.classes)
            held = val_rows
            if shot != FULL and len(val_rows):
                held = at_most_as_many(data.val.labels, val_rows, data.train.labels[rows], config.seed)
            if data.multi_label and len(held) and not data.val.labels[held].any():
                raise InputError(
                    f"none of the {len(held)} held-out images shows a class, so there is no precision to select by "
                    f"(shots {shot}); hold out more with --val, or give --val-split or --protocol paper"
                )
            regimes.append(_make_regime(data, config, shot, of_regime, rows, held))
    return regimes


def repeats(epochs: int, steps: int, min_steps: int) -> int:
    """Return the passes per epoch over the rows, for at least `min_steps` steps in all epochs together."""
    return max(1, ceil(min_steps / (epochs * steps)))


def scored_epochs(epochs: int, n_passes: int, n_train: int, n_test: int, shots: str) -> tuple[int, ...]:
    """Return the passes after which cells are scored: every epoch on full data, else evenly spaced epochs.

    Args:
        epochs: of the schedule.
        n_passes: all passes over the training rows, a multiple of `epochs`.
        n_train: training images.
        n_test: test images.
        shots: "full" or a subset.
    """
    affordable = epochs if shots == FULL else max(LEAST_SCORINGS, ceil(n_passes * n_train / n_test))
    n_scorings = min(epochs, affordable)
    return tuple(n_passes // epochs * ceil((index + 1) * epochs / n_scorings) for index in range(n_scorings))


def scored_together(regimes: Iterable[Regime]) -> list[list[Regime]]:
    """Group the regimes that are scored equally often. They can share the passes over the test split."""
    together: dict[int, list[Regime]] = {}
    for regime in regimes:
        together.setdefault(len(regime.scored), []).append(regime)
    return list(together.values())


def row_sets(data: Data, regimes: Sequence[Regime]) -> dict[str, RowNumbers]:
    """Return the sorted rows that regimes read from each existing row set: TRAIN, SUBSETS, VAL and TEST."""
    of_train = {
        TRAIN: [regime for regime in regimes if regime.shots == FULL],
        SUBSETS: [regime for regime in regimes if regime.shots != FULL],
    }
    rows = {}
    for name, of_kind in of_train.items():
        if of_kind:
            held_out = [regime.val_rows for regime in of_kind if data.holds_out]
            rows[name] = np.unique(np.concatenate([*(regime.train_rows for regime in of_kind), *held_out]))
    if not data.holds_out:
        rows[VAL] = np.unique(np.concatenate([regime.val_rows for regime in regimes]))
    return rows | {TEST: np.arange(len(data.test))}


def default_batch_size(n_images: int) -> int:
    """Return 4096, or for a small set the largest power of two with ten steps per epoch, but at least min(n, 32)."""
    tenth = max(1, n_images // 10)
    return max(min(PUBLISHED_BATCH, 1 << (tenth.bit_length() - 1)), min(n_images, 32))


def default_warmup(epochs: int) -> float:
    """Return 10 epochs, but at most a ninth of all epochs."""
    return min(PUBLISHED_WARMUP, epochs / 9)


def _split_rows(data: Data, config: FitConfig) -> tuple[RowNumbers, RowNumbers]:
    """Return the rows of the training split to train on, and the rows to select on, in the split that holds them."""
    every = np.arange(len(data.train))
    if config.protocol == "paper":
        return every, np.arange(0)
    if data.val is not data.train:
        return every, np.arange(len(data.val))
    return hold_out(data.train.labels, config.val, config.seed, data.train.classes)


def _make_regime(
    data: Data, config: FitConfig, shots: str, seeds: tuple[int, ...], train_rows: RowNumbers, val_rows: RowNumbers
) -> Regime:
    n_train = len(train_rows)
    if n_train < 2:
        raise InputError(f"{n_train} training image(s) in {data.train.name!r}: BatchNorm needs two or more")
    batch_size = min(config.batch_size or default_batch_size(n_train), n_train)
    n_repeats = repeats(config.epochs, max(1, n_train // batch_size), config.min_steps)
    warmup = default_warmup(config.epochs) if config.warmup_epochs is None else config.warmup_epochs
    n_passes = config.epochs * n_repeats
    within = shots != FULL and config.protocol == "select" and config.select_on == "shots"
    return Regime(
        shots=shots,
        seeds=seeds,
        train_rows=train_rows,
        val_rows=val_rows,
        batch_size=batch_size,
        epochs=n_passes,
        warmup_epochs=warmup * n_repeats,
        scored=scored_epochs(config.epochs, n_passes, n_train, len(data.test), shots),
        folds=folds_of(data.train.labels[train_rows], MOST_FOLDS) if within else None,
    )
