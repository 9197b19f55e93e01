"""Regimes: full data or one low-shot subset, with the schedule of the cells that are trained on it.

All cells on full data share one regime. A low-shot subset is a regime of its own, with one seed, which draws both the
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
from ..batches.subsets import FULL, at_most_as_many, hold_out, subset
from ..config import FitConfig

PUBLISHED_BATCH, PUBLISHED_WARMUP = 4096, 10.0

LEAST_SCORINGS = 10
"""A small subset costs far less to train on than the test split to score: it is scored this often, or after as many
epochs as cost the same."""


@dataclass(frozen=True, eq=False)
class Regime:
    """What cells that see the same batches have in common.

    Attributes:
        shots: "full", "16" or "0.1", as in the results.
        seeds: of the cells.
        train_rows: sorted rows of the training split.
        val_rows: sorted rows to select on, of the split that holds them.
        batch_size: images in a step.
        epochs: passes over the training rows.
        warmup_epochs: of linear rise.
        scored: epochs after which all cells are scored, counted from 1; the last is `epochs`.
    """

    shots: str
    seeds: tuple[int, ...]
    train_rows: RowNumbers
    val_rows: RowNumbers
    batch_size: int
    epochs: int
    warmup_epochs: float
    scored: tuple[int, ...]

    @property
    def n_steps(self) -> int:
        """Steps in one epoch."""
        return len(batch_sizes(len(self.train_rows), self.batch_size, drop_last=True))

    def epochs_before(self, scoring: int) -> Iterator[int]:
        """Iterate over the epochs, from 0, between one scoring and the one before it."""
        yield from range(self.scored[scoring - 1] if scoring else 0, self.scored[scoring])


def make_regimes(data: Data, config: FitConfig, shots: Sequence[str]) -> list[Regime]:
    """Return the regimes: full data once for all seeds, every subset once per seed.

    Args:
        data: the splits.
        config: of the fit.
        shots: of `parse_shots`.

    Raises:
        InputError: too few images, of a class or altogether, or of several labels none to select by.
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
                    f"(shots {shot}); hold out more by --val, or give --val-split or --protocol paper"
                )
            regimes.append(_make_regime(data, config, shot, of_regime, rows, held))
    return regimes


def repeats(epochs: int, steps: int, min_steps: int) -> int:
    """Return how often an epoch passes over its rows, so that all epochs together make at least `min_steps` steps."""
    return max(1, ceil(min_steps / (epochs * steps)))


def scored_epochs(epochs: int, n_passes: int, n_train: int, n_test: int, shots: str) -> tuple[int, ...]:
    """Return after which passes cells are scored: on full data after every epoch, else evenly spaced ones.

    Args:
        epochs: of the schedule.
        n_passes: over the training rows in all: a multiple of `epochs`.
        n_train: training images.
        n_test: test images.
        shots: "full" or a subset.
    """
    affordable = epochs if shots == FULL else max(LEAST_SCORINGS, ceil(n_passes * n_train / n_test))
    n_scorings = min(epochs, affordable)
    return tuple(n_passes // epochs * ceil((index + 1) * epochs / n_scorings) for index in range(n_scorings))


def scored_together(regimes: Iterable[Regime]) -> list[list[Regime]]:
    """Put together the regimes that are scored equally often: they can share the passes over the test split."""
    together: dict[int, list[Regime]] = {}
    for regime in regimes:
        together.setdefault(len(regime.scored), []).append(regime)
    return list(together.values())


def row_sets(data: Data, regimes: Sequence[Regime]) -> dict[str, RowNumbers]:
    """Return the sorted rows that regimes read of each row set there is: TRAIN, SUBSETS, VAL and TEST."""
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
    """Return 4096, or for a small set the largest power of two that leaves ten steps an epoch, at least min(n, 32)."""
    tenth = max(1, n_images // 10)
    return max(min(PUBLISHED_BATCH, 1 << (tenth.bit_length() - 1)), min(n_images, 32))


def default_warmup(epochs: int) -> float:
    """Return 10 epochs, but at most a ninth of all."""
    return min(PUBLISHED_WARMUP, epochs / 9)


def _split_rows(data: Data, config: FitConfig) -> tuple[RowNumbers, RowNumbers]:
    """Return the rows to train on, of the training split, and those to select on, of the split that holds them."""
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
    return Regime(
        shots=shots,
        seeds=seeds,
        train_rows=train_rows,
        val_rows=val_rows,
        batch_size=batch_size,
        epochs=n_passes,
        warmup_epochs=warmup * n_repeats,
        scored=scored_epochs(config.epochs, n_passes, n_train, len(data.test), shots),
    )
