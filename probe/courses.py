"""The courses of a fit: which rows are trained on and selected on, for full data and for every subset and seed."""

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from .config import FitConfig
from .course import Course, repeats, scored_epochs
from .data import Data
from .grid import default_batch_size, default_warmup
from .split import FULL, Rows, at_most_as_many, hold_out, subset


def make_courses(data: Data, config: FitConfig, shots: Sequence[str]) -> list[Course]:
    """Return the courses: full data once for all seeds, every subset once a seed.

    Args:
        data: the splits.
        config: of the fit.
        shots: of `parse_shots`.

    Raises:
        InputError: too few images, of a class or altogether.
    """
    train_rows, val_rows = _split_rows(data, config)
    seeds = tuple(range(config.seeds))
    courses = []
    for shot in shots:
        for of_course in [seeds] if shot == FULL else [(seed,) for seed in seeds]:
            rows = subset(data.train.labels, train_rows, shot, of_course[0], data.train.classes)
            held = val_rows
            if shot != FULL and len(val_rows):
                held = at_most_as_many(data.val.labels, val_rows, data.train.labels[rows], config.seed)
            courses.append(_make_course(data, config, shot, of_course, rows, held))
    return courses


def _split_rows(data: Data, config: FitConfig) -> tuple[Rows, Rows]:
    """Return the rows to train on, of the training split, and those to select on, of the split that holds them."""
    every = np.arange(len(data.train))
    if config.protocol == "paper":
        return every, np.arange(0)
    if data.val is not data.train:
        return every, np.arange(len(data.val))
    return hold_out(data.train.labels, config.val, config.seed, data.train.classes)


def _make_course(
    data: Data, config: FitConfig, shots: str, seeds: tuple[int, ...], train_rows: Rows, val_rows: Rows
) -> Course:
    n_train = len(train_rows)
    if n_train < 2:
        raise InputError(f"{n_train} training image(s) in {data.train.name!r}: BatchNorm needs two or more")
    batch_size = min(config.batch_size or default_batch_size(n_train), n_train)
    n_repeats = repeats(config.epochs, max(1, n_train // batch_size), config.min_steps)
    warmup = default_warmup(config.epochs) if config.warmup_epochs is None else config.warmup_epochs
    n_passes = config.epochs * n_repeats
    return Course(
        shots=shots,
        seeds=seeds,
        train_rows=train_rows,
        val_rows=val_rows,
        batch_size=batch_size,
        epochs=n_passes,
        warmup_epochs=warmup * n_repeats,
        scored=scored_epochs(config.epochs, n_passes, n_train, len(data.test), shots),
    )
