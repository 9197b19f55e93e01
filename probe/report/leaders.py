"""The first table of a report: each backbone and head at its selected layer, compared with the best; and the answer."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from .compare import Interval, Judged, difference, own_interval
from .summary import FIGURES, best_layers, percent, shots_order

TABLE = ["dataset", "figure", "shots"]
"""Columns of figures that can be compared: one table each."""
KEY = ["source", "head", "shots", "layer"]
Key = tuple[str, str, str, str]
MOST_COMPARED = 4
"""Most backbones or heads that an answer compares with the best."""
NO_INTERVAL = {
    "map": "an image with several labels is not right or wrong, so differences of mAP have no interval",
    "top1": "some differences have no interval: test images differ, or a run of an earlier version does not keep what "
    "its cells predict; fit it again with another --out",
}
"""Why differences have no interval, by figure."""


def find_leaders(summary: pd.DataFrame, judged: Mapping[Key, Judged]) -> pd.DataFrame:
    """Return the selected layer of each backbone and head, one row per source, head and shots.

    The columns are those of the summary, and: low and high (the interval of the figure over test images), behind,
    behind_low and behind_high (the figure minus the best one of the same data set, figure and shots, over the images of
    both), n_paired (the number of these images), and leads (the best, and each figure whose difference from it may be
    chance). All are missing where they are not known; leads is then False.

    Args:
        summary: from `summarise`.
        judged: by the values of `KEY`.
    """
    best = best_layers(summary)
    order = best["shots"].map(shots_order)
    best = best.loc[order.sort_values(kind="stable").index].reset_index(drop=True)
    keys = list(best[KEY].itertuples(index=False, name=None))
    found = pd.DataFrame(
        float("nan"), best.index, ["low", "high", "behind", "behind_low", "behind_high", "n_paired"]
    ).assign(leads=False)
    for place, key in enumerate(keys):
        if key in judged:
            own = own_interval(judged[key])
            found.loc[place, ["low", "high"]] = own.low, own.high
    for _, rows in best.dropna(subset="test").groupby(TABLE, sort=False):
        top = rows["test"].idxmax()
        found.loc[top, "behind"], found.loc[top, "leads"] = 0.0, keys[top] in judged and len(rows) > 1
        for place in rows.index.drop(top):
            if keys[place] in judged and keys[top] in judged:
                compared = difference(judged[keys[place]], judged[keys[top]])
                if compared is not None:
                    values = compared.value, compared.low, compared.high, compared.n_images, compared.holds_zero
                    found.loc[place, list(found)[2:]] = values
    return pd.concat([best, found], axis=1)


def answers(leaders: pd.DataFrame, judged: Mapping[Key, Judged]) -> Iterator[str]:
    """Yield the answer per data set, for the most data: which backbone is best, or, of one backbone, which head.

    Each of several backbones is represented by the head that the protocol selects for it. A head that was selected on
    the test split represents none that has others.

    Args:
        leaders: from `find_leaders`.
        judged: as for `find_leaders`.
    """
    most = leaders.groupby("dataset")["shots"].transform("first")
    found = leaders[(leaders["shots"] == most)].dropna(subset="test")
    for (dataset, _, _), rows in found.groupby(TABLE, sort=False):
        of = f" on {dataset}" if leaders["dataset"].nunique() > 1 else ""
        figures = rows["val"].where(rows["protocol"] == "select", rows["test"])
        fair = rows["protocol"] == "select"
        fair |= ~fair.groupby(rows["source"]).transform("any")
        each = rows.loc[figures[fair].groupby(rows["source"], sort=False).idxmax()]
        if len(each) > 1:
            yield from _answer(each, judged, "backbone", of)
        elif len(rows) > 1:
            yield from _answer(rows, judged, "head", of)


def _answer(rows: pd.DataFrame, judged: Mapping[Key, Judged], kind: str, of: str) -> Iterator[str]:
    """Yield the best row and its distance to each other: those that tie with it, then the others."""
    first, *others = rows.sort_values("test", ascending=False, kind="stable").itertuples()
    compared = [(other, _compare(first, other, judged)) for other in others]
    tied = [(other, found) for other, found in compared if found is not None and found.holds_zero]
    figure = f"test {FIGURES[first.figure]} {percent(first.test, first.test_std)} %"
    if tied:
        names = "; ".join(_name(each, kind) for each in (first, *(other for other, _ in tied)))
        yield f"No single best {kind}{of}: {names} tie. Highest is {_name(first, kind)}, {figure}, {_with(first, kind)}"
    else:
        word = "Highest" if any(found is None for _, found in compared) else "Best"
        yield f"{word} {kind}{of}: {_name(first, kind)}, {figure}, {_with(first, kind)}"
    left = [each for each in compared if each not in tied]
    for other, found in [*tied, *left][:MOST_COMPARED]:
        figure = f"{_name(other, kind)}, {_with(other, kind)}: {percent(other.test, other.test_std)} %"
        yield f"  {figure}, {points(other.test - first.test) if found is None else _behind(found)}"
    if len(compared) > MOST_COMPARED:
        yield f"  and {len(compared) - MOST_COMPARED} more, in the table"
    if any(found is None for _, found in compared):
        yield f"  {NO_INTERVAL[first.figure]}"


def _compare(first: Any, other: Any, judged: Mapping[Key, Judged]) -> Interval | None:
    one, two = ((row.source, row.head, row.shots, row.layer) for row in (other, first))
    return difference(judged[one], judged[two]) if one in judged and two in judged else None


def _behind(found: Interval) -> str:
    interval = f"{points(found.value)} points (95 % interval {points(found.low)} to {points(found.high)})"
    return interval + (", may be chance" if found.holds_zero else "")


def _name(row: Any, kind: str) -> str:
    return str(row.backbone if kind == "backbone" else row.head)


def _with(row: Any, kind: str) -> str:
    return f"{row.head} on layer {row.layer}" if kind == "backbone" else f"layer {row.layer}"


def points(difference: float) -> str:
    """Return a difference of fractions in points of percent, with its sign."""
    if abs(difference) < 0.0005:
        return "0.0"
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")
