"""Warnings that a careful colleague would give about results."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain

import numpy as np
import pandas as pd

from ...errors import RunError
from ...runtime.text import counted, in_words, plural
from ..grid.regimes import FEW_IMAGES
from ..grid.unused import unused_settings
from ..planning.settings import unread_settings
from ..run.origin import read_origin
from ..run.predictions import ImageSet
from ..run.results import Run
from .choices import chosen_things, no_common_images
from .summary import best_layers, shots_words

FEW_SEEDS = 3
RATES = {"lr": "base lr", "weight_decay": "weight decay"}


def warnings_of(cells: pd.DataFrame, summary: pd.DataFrame, images: Mapping[str, ImageSet]) -> list[str]:
    """Return one line per warning.

    Args:
        cells: from `tidy`.
        summary: from `summarise`.
        images: the test images of each source, where they are known.
    """
    best = best_layers(summary)
    return [
        *_other_test_images(summary, images),
        *_edges(cells, best),
        *_few_held_out(cells, summary),
        *no_common_images(cells),
        *_few_seeds(best),
        *_diverged_heads(summary),
    ]


def differing_settings(runs: Sequence[Run]) -> list[str]:
    """Return a line about settings that are not the same in all runs, if there are any.

    A setting that no head of a run reads is not compared with those of other runs.

    Raises:
        RunError: a run does not say what it was made with.
    """
    made = [(origin.shared, _unread(run)) for run in runs for origin in [read_origin(run)] if origin is not None]
    keys = sorted({key for settings, _ in made for key in settings})
    differing = {
        key: list(dict.fromkeys(str(settings.get(key)) for settings, unread in made if key not in unread))
        for key in keys
    }
    if len(differing.get("epochs", [])) > 1:
        differing.pop("warmup_epochs", None)  # follows from the epochs, unless both were given
    listed = [f"{key} {' and '.join(values)}" for key, values in differing.items() if len(values) > 1]
    return [f"the runs were made with different settings: {'; '.join(listed)}"] if listed else []


def _unread(run: Run) -> set[str]:
    """Return the settings that no head of a run reads."""
    kinds = run.results["lr"].isna().unique()
    return set.intersection(*(set(unread_settings(solved=bool(solved))) for solved in kinds))


def settings_without_effect(runs: Sequence[Run]) -> list[str]:
    """Return a line per setting that solvers of these runs ignore. A run that has lost its settings has none."""
    lines: dict[str, None] = {}
    for run in runs:
        with suppress(RunError):
            origin = read_origin(run)
            if origin is not None:
                lines |= dict.fromkeys(unused_settings(origin.shared, run.results["head"].unique()))
    return list(lines)


def _other_test_images(summary: pd.DataFrame, images: Mapping[str, ImageSet]) -> Iterator[str]:
    """Warn about backbones of one data set that are not tested on the same images."""
    for dataset, rows in summary.groupby("dataset", sort=False):
        sources = list(rows["source"].unique())
        sets = {source: frozenset(images[source].ids) for source in sources if source in images}
        numbers = rows.groupby("source", sort=False)["n_test"].first().dropna()
        if len(set(sets.values())) > 1 or numbers.nunique() > 1:
            each = in_words([f"{numbers.get(source, 'unknown')} of {source}" for source in sources])
            common = (
                f"; {len(frozenset.intersection(*sets.values())):,} are common" if len(sets) == len(sources) else ""
            )
            yield f"test images of {dataset} differ ({each}{common}): the figures of these backbones do not compare"
        elif len(sources) > 1 and len(sets) < len(sources):
            yield f"not all runs keep the test images of {dataset}, so nothing shows that backbones share them"


def _edges(cells: pd.DataFrame, best: pd.DataFrame) -> Iterator[str]:
    """Warn about selected rates, decays and penalties at the edge of their grid, that of the optimizer.

    Values that diverged count as values of the grid. Nothing is below a weight decay of 0. The penalties of solvers are
    fixed.
    """
    keys = ["source", "head", "shots", "layer"]
    grids = dict(list(cells.groupby(keys, sort=False)))
    for name, words in RATES.items():
        found: dict[tuple[str, str], list[str]] = {}
        for row in best.dropna(subset="test").itertuples():
            tried = grids[tuple(getattr(row, key) for key in keys)]
            grid = np.unique(tried[name][tried["optimizer"] == row.optimizer].dropna())
            chosen = getattr(row, name)
            if len(grid) > 1 and chosen in (grid[0], grid[-1]) and chosen > 0:
                where, option = "highest" if chosen == grid[-1] else "lowest", f"--{name.replace('_', '-')}"
                said, remedy = f"{words} {chosen:g}, the {where} of its grid", f"one beyond it may be better: {option}"
                if pd.isna(row.lr):
                    said, remedy = f"penalty {chosen:g}, the {where} of its fixed grid", "no option goes beyond it"
                found.setdefault((said, remedy), []).append(f"{row.head} ({_place(row, best)})")
        for (said, remedy), heads in found.items():
            yield f"selected {said}: {_some(heads)}; {remedy}"


def _few_held_out(cells: pd.DataFrame, summary: pd.DataFrame) -> Iterator[str]:
    """Warn about selections by few held-out images. Heads that choose nothing are not concerned."""
    by_val = (summary["protocol"] == "select") & (summary["n_val"] < FEW_IMAGES)
    picks_epoch = summary["lr"].notna() & (summary["shots"] == "full")
    chooses = by_val & ~summary["within"] & ((summary["n_choices"] > 1) | picks_epoch)
    for (shots, n_val), rows in summary[chooses].groupby(["shots", "n_val"], sort=False):
        point, heads = 100 / max(n_val, 1), _some(list(rows["head"].unique()))
        of_heads = cells[(cells["shots"] == shots) & cells["head"].isin(rows["head"])]
        chosen = list(dict.fromkeys(chain(*(chosen_things(each) for _, each in of_heads.groupby("head", sort=False)))))
        if not chosen:  # a single epoch
            continue
        yield (
            f"with {shots_words(shots)}, {in_words(chosen)} {plural(len(chosen), 'is', 'are')} selected on "
            f"{counted(n_val, 'held-out image')}, where one image is {point:.2g} points: "
            f"the choice of {heads} is largely chance; " + _without_choice(summary[summary["shots"] == shots])
        )


def _without_choice(summary: pd.DataFrame) -> str:
    """Name the heads that need no held-out image, of those in the results or else of all."""
    free = summary[summary["lr"].isna() & (summary["within"] | (summary["n_choices"] == 1))]
    if len(free):
        heads = list(free["head"].unique())
        return f"{_some(heads)} {plural(len(heads), 'needs', 'need')} no held-out image to choose a rate or penalty"
    return "ncm and ridge need no held-out image: --preset few-labels"


def _few_seeds(best: pd.DataFrame) -> Iterator[str]:
    drawn = best[(best["lr"].notna() | (best["shots"] != "full")) & best["n_seeds"].between(1, FEW_SEEDS - 1)]
    if len(drawn):
        least, subsets = drawn["n_seeds"].min(), (drawn["shots"] != "full").any()
        drawn_by_chance = "initial weights and subsets" if subsets else "initial weights"
        yield (
            f"{counted(least, 'seed')} of {_some(list(drawn['head'].unique()))}: too few to tell how much the results "
            f"depend on the {drawn_by_chance}; give --seeds {FEW_SEEDS}"
        )


def _diverged_heads(summary: pd.DataFrame) -> Iterator[str]:
    for head, rows in summary.groupby("head", sort=False):
        lost = rows[rows["n_seeds"] == 0]
        if len(lost):
            where = "everywhere" if len(lost) == len(rows) else f"on {len(lost)} of {len(rows)} layers and data sets"
            yield f"{head} diverged at every choice {where}; give lower rates with --lr"


def _place(row: object, best: pd.DataFrame) -> str:
    """Name a row by what differs between the rows."""
    parts = [row.backbone] if best["source"].nunique() > 1 else []  # type: ignore[attr-defined]
    parts += [shots_words(row.shots)] if best["shots"].nunique() > 1 else []  # type: ignore[attr-defined]
    return ", ".join([*parts, f"layer {row.layer}"])  # type: ignore[attr-defined]


def _some(names: list[str], most: int = 3) -> str:
    """Return the first few names, and the number of the others."""
    return "; ".join(names[:most]) + (f"; and {len(names) - most} more" if len(names) > most else "")
