"""The choices behind each head's figure: what was selected, and on which images, in words.

A head may have chosen an optimizer, a rate, a weight decay or a penalty, its epoch and its layer, or nothing. The
images are those of the column `selected_on` of the results.
"""

from collections.abc import Iterator, Sequence

import pandas as pd

from ...runtime.text import in_words, printable
from ..grid.regimes import FEW_IMAGES
from ..run.results import HELD_OUT, LEFT_OUT, TEST
from .summary import best_layers, shots_order, shots_words, summarise, with_most_data

IMAGES = {
    HELD_OUT: "held-out images",
    LEFT_OUT: "its training images, each scored by a fit without it",
    TEST: "the test split itself, as published tables report; optimistic by construction",
}
"""The images that something was selected on, in words."""
SHORT = {HELD_OUT: "held-out images", LEFT_OUT: "left-out training images", TEST: "the test split"}
"""The same, shorter."""
LAST = "the last epoch counts"


def choice_lines(cells: pd.DataFrame) -> list[str]:
    """Return a sentence per group of heads that chose the same things on the same images.

    Args:
        cells: from `tidy`: all cells that the choice was made among.
    """
    groups: dict[str, dict[str, list[str]]] = {}
    cells = cells.assign(head=_named(cells))
    for (head, shots), rows in cells.groupby(["head", "shots"], sort=False):
        groups.setdefault(_sentence(chosen_things(rows), _images(rows), last=_keeps_last(rows)), {}).setdefault(
            head, []
        ).append(shots)
    if len(groups) == 1:
        return list(groups)
    all_shots = cells.groupby("head", sort=False)["shots"].nunique()
    return [f"{'; '.join(_who(heads, all_shots))}: {sentence}" for sentence, heads in groups.items()]


def choice_of(cells: pd.DataFrame, cell: str) -> str:
    """Return how one cell was chosen, in one sentence. A cell that the run does not select was named by someone.

    Args:
        cells: from `tidy`, of one run.
        cell: its name.
    """
    row = cells[cells["cell"] == cell].iloc[0]
    same = cells[(cells[["source", "head", "shots"]] == row[["source", "head", "shots"]]).all(axis=1)]
    best = best_layers(summarise(same))["layer"].iloc[0]
    if row["selected"] and row["layer"] == best:
        return choice_lines(same)[0]
    epoch = [] if "epoch" not in chosen_things(same) else [f"its epoch is selected on {IMAGES[row['selected_on']]}"]
    return "; ".join(["this is not the cell that its run selects for this head", *epoch])


def chosen_things(rows: pd.DataFrame) -> list[str]:
    """Return what a head chose: an optimizer, a rate, weight decay or penalty, its epoch, its layer.

    Args:
        rows: all its cells with one number of shots, from `tidy`.
    """
    stepped = rows["lr"].notna().any()
    found = {
        "optimizer": rows["optimizer"][rows["lr"].notna()].nunique() > 1,
        "learning rate": rows["lr"].nunique() > 1,
        "weight decay" if stepped else "penalty": rows["weight_decay"].nunique() > 1,
        "epoch": stepped and bool((rows["epochs"] > 1).any()) and not _keeps_last(rows),
        "layer": rows.groupby("source")["layer"].nunique().max() > 1,
    }
    return [name for name, is_chosen in found.items() if is_chosen]


def best_words(cells: pd.DataFrame) -> str:
    """Return the images whose figures order the heads that have the most data, in words."""
    return " or ".join(SHORT[name] for name in with_most_data(cells)["selected_on"].unique())


def no_common_images(cells: pd.DataFrame) -> Iterator[str]:
    """Warn about heads of one source whose choices rest on different images, once for numbers of shots that agree.

    Under protocol `paper` all rest on the test split.
    """
    found: dict[str, dict[str, None]] = {}
    for (_, shots), rows in cells[cells["selected_on"] != TEST].groupby(["source", "shots"], sort=False):
        heads = rows.groupby("selected_on", sort=False)["head"].unique()
        if len(heads) > 1:
            each = in_words([f"{'; '.join(names)} on {SHORT[name]}" for name, names in heads.items()])
            found.setdefault(each, {})[shots] = None
    for each, levels in found.items():
        yield (
            f"with {in_words(list(map(shots_words, levels)))}, heads are scored on different images before the test "
            f"split: {each}. The best of them (--cell best) compares these; --select-on held-out gives all the same"
        )


def _named(cells: pd.DataFrame) -> "pd.Series[str]":
    """Return the names of heads, with the data set if there are several."""
    several = cells["dataset"].nunique() > 1
    return cells["head"] + " on " + cells["dataset"].map(printable) if several else cells["head"]


def _images(rows: pd.DataFrame) -> str:
    return " or ".join(IMAGES[name] for name in rows["selected_on"].unique())


def _keeps_last(rows: pd.DataFrame) -> bool:
    """Whether a trained head keeps its last epoch, because few images could choose one; see `Regime.picks_epoch`."""
    few = (rows["n_val"].fillna(FEW_IMAGES) < FEW_IMAGES) & (rows["shots"] != "full") & (rows["selected_on"] != TEST)
    return bool((few & rows["lr"].notna() & (rows["epochs"] > 1)).any())


def _sentence(things: Sequence[str], images: str, *, last: bool) -> str:
    chosen = f"{in_words(things)} {'is' if len(things) == 1 else 'are'} selected on {images}" if things else ""
    return "; ".join(filter(None, [chosen or "nothing is selected", LAST * last]))


def _who(heads: dict[str, list[str]], all_shots: "pd.Series[int]") -> Iterator[str]:
    """Yield heads that share their numbers of shots, with these where the head has others too."""
    together: dict[str, list[str]] = {}
    for head, shots in heads.items():
        each = in_words([shots_words(each) for each in sorted(shots, key=shots_order)])
        together.setdefault("" if len(shots) == all_shots[head] else f" with {each}", []).append(head)
    yield from (f"{'; '.join(names)}{shots}" for shots, names in together.items())
