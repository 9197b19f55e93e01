"""The summary: the selected cells of every head, layer and number of shots, as mean ± standard deviation over seeds."""

from typing import Any

import pandas as pd

from ...runtime.text import plural, printable
from ..batches.layer_set import parse_text
from ..batches.subsets import is_fraction
from ..grid.cells import store_of
from ..run.results import HELD_OUT, LEFT_OUT, TEST
from .head_names import head_name

SELECTED_BY = ["source", "head", "shots"]
"""Columns of a summary within which the protocol picks one layer."""

FIGURES = {"top1": "top-1", "map": "mAP"}
UNSCORED = {"val": "held-out", "test": "test"}
"""Words for the splits whose images may have scores that are not finite."""
ADVICE = "probe verify names damaged files"


def tidy(results: pd.DataFrame) -> pd.DataFrame:
    """Return the results with the columns that a report uses.

    These columns are added or replaced: backbone (its chosen name or its model, and the store if two stores share that;
    printable on a terminal), source (backbone and dataset), head (its readable name, and the run if it was trained with
    several settings), look (its spec, and a number if it was), kind (its registry name), spec (that and its settings),
    figure ("top1", or "map" if images have several labels), and test, val and peak (that figure, as fractions).
    Where `selected_on` is empty, as in runs of earlier versions, it is derived; `flops_train`, which these give the
    cost of a step, is empty for heads that are fitted at once.

    Args:
        results: of one run; or of several, with columns `data` and `setting` that identify the data and the training of
            each cell.
    """
    data = results["data"] if "data" in results else results["cell"].map(store_of)
    backbone = _backbones(results, data)
    source = backbone + " on " + results["dataset"].map(printable)
    by_loss = results["val_loss"].notna().map({True: LEFT_OUT, False: HELD_OUT})
    on = results["selected_on"].where(results["selected_on"] != "", by_loss.where(results["protocol"] != "paper", TEST))
    several = results["test_map"].notna().groupby(source).transform("any")
    spec = results["head"] + (":" + results["head_config"]).where(results["head_config"] != "", "")
    head, look = _heads(results, source, spec)
    return results.assign(
        data=data,
        backbone=backbone,
        source=source,
        head=head,
        look=look,
        kind=results["head"],
        spec=spec,
        selected_on=on,
        flops_train=results["flops_train"].where(results["lr"].notna()),
        figure=several.map({True: "map", False: "top1"}),
        **{
            column: results[f"{name}_top1"].where(~several, results[f"{name}_map"]).astype(float)
            for column, name in {"test": "test", "val": "val", "peak": "peak_test"}.items()
        },
    )


def summarise(cells: pd.DataFrame) -> pd.DataFrame:
    """Return one row per (source, head, shots, layer): the selected cells' figure over seeds, and their rates.

    Columns: source, head, shots, layer, backbone, dataset, data, look, kind, spec, figure, protocol, n_val and n_test
    (images that selection and figure rest on), sweep_seconds (to train all cells), n_choices (optimizers, their rates
    and penalties), n_optimizers, within (whether these are chosen within the training images, without held-out ones),
    test, test_std (NaN with one seed), val, peak, optimizer, lr (NaN for heads that are fitted at once), weight_decay,
    n_seeds, n_params, flops_forward and flops_train (per image), train_seconds (of one cell). If every choice diverged,
    nothing is selected: n_seeds is 0 and the figures are NaN. Sources and heads keep the results' order, shots and
    layers that of `shots_order` and `layer_order`.

    Args:
        cells: from `tidy`.
    """
    keys = [*SELECTED_BY, "layer"]
    first = ["backbone", "dataset", "data", "look", "kind", "spec", "figure", "protocol", "n_val", "n_test"]
    rates = [cells[name].fillna(-1).astype(str) for name in ("lr", "weight_decay")]
    asked = cells.assign(choice=cells["optimizer"].str.cat(rates, " "))
    asked = asked.groupby(keys, sort=False).agg(
        **{name: (name, "first") for name in first},
        sweep_seconds=("train_seconds", "sum"),
        n_choices=("choice", "nunique"),
        n_optimizers=("optimizer", "nunique"),
        within=("selected_on", lambda images: bool((images == LEFT_OUT).all())),
    )
    chosen = cells[cells["selected"]].groupby(keys, sort=False)
    found = chosen.agg(
        test=("test", "mean"),
        test_std=("test", "std"),
        val=("val", "mean"),
        peak=("peak", "mean"),
        optimizer=("optimizer", "first"),
        lr=("lr", "first"),
        weight_decay=("weight_decay", "first"),
        n_seeds=("seed", "count"),
        n_params=("n_params", "first"),
        flops_forward=("flops_forward", "first"),
        flops_train=("flops_train", "first"),
        train_seconds=("train_seconds", "mean"),
    )
    summary = asked.join(found).reset_index()
    summary["n_seeds"] = summary["n_seeds"].fillna(0).astype(int)
    ranks = pd.DataFrame(
        {
            "source": pd.factorize(summary["source"])[0],
            "head": pd.factorize(summary["head"])[0],
            "shots": summary["shots"].map(shots_order),
            "layer": summary["layer"].map(layer_order),
        }
    )
    return summary.loc[ranks.sort_values(list(ranks)).index].reset_index(drop=True)


def layer_order(layer: str) -> tuple[int, ...]:
    """Return the sort key of a layer: single layers come first, then joined ones such as "8+9", then stacked ones."""
    layers = parse_text(layer)
    return (layers.stacked, len(layers), *layers)


def shots_order(shots: str) -> tuple[int, float]:
    """Return the sort key of shots: "full" first, then fractions, then images per class, each from most to fewest."""
    if shots == "full":
        return (0, 0.0)
    return (1 if is_fraction(shots) else 2, -float(shots))


def shots_words(shots: str) -> str:
    """Return a number of shots in words."""
    if shots == "full":
        return "all training images"
    if is_fraction(shots):
        return f"{100 * float(shots):g} % of the training images"
    return f"{shots} image{'s' * (shots != '1')} per class"


def best_layers(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the row that the protocol picks per source, head and shots. If all rows diverged, it is the first."""
    counted = summary["val"].where(summary["protocol"] == "select", summary["test"]).fillna(-1.0)
    return summary.loc[counted.groupby([summary[name] for name in SELECTED_BY], sort=False).idxmax()]


def best_row(summary: pd.DataFrame) -> "pd.Series[Any] | None":
    """Return the row that the protocol picks over all sources and heads, with the most data; None if all diverged."""
    best = best_layers(with_most_data(summary)).dropna(subset="test")
    if best.empty:
        return None
    return best.loc[best["val"].where(best["protocol"] == "select", best["test"]).idxmax()]


def with_most_data(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each source with the most training data."""
    most = summary.groupby("source", sort=False)["shots"].transform(lambda shots: min(shots, key=shots_order))
    return summary[summary["shots"] == most]


def percent(mean: float, std: float = float("nan")) -> str:
    """Return a fraction in percent, with its spread if there is one."""
    if pd.isna(mean):
        return "diverged"
    return f"{100 * mean:.1f}" if pd.isna(std) else f"{100 * mean:.1f} ± {100 * std:.1f}"


def head_lines(summary: pd.DataFrame) -> list[str]:
    """Return one line per head: its selected layer, its figure, the optimism of its test peak, and its cost.

    Args:
        summary: the rows of one source and number of shots.
    """
    return [_head_line(row) for row in best_layers(summary).itertuples()]


def optimism_line(cells: pd.DataFrame, summary: pd.DataFrame) -> str | None:
    """Return how far the highest peak of the grid lies above the selected figure, or None under protocol "paper".

    A published best is often the highest figure over all heads, layers, rates, seeds and epochs.

    Args:
        cells: from `tidy`.
        summary: the rows of one source and number of shots.
    """
    best = best_layers(summary).dropna(subset="test")
    if best.empty or (best["protocol"] != "select").any():
        return None
    selected = best.loc[best["val"].idxmax()]
    peak = cells["peak"][(cells["source"] == selected["source"]) & (cells["shots"] == selected["shots"])].max()
    return (
        f"over the whole grid: the highest peak of any head, layer, rate and seed is {percent(peak)} %, "
        f"optimism {100 * (peak - selected['test']):+.1f} over the selected one, "
        f"{selected['head']} on layer {selected['layer']}"
    )


def status_lines(cells: pd.DataFrame) -> list[str]:
    """Return lines about cells that diverged, did not converge, or have scores that are not finite."""
    lines = []
    diverged = cells[cells["status"].str.startswith("diverged")]
    for cause, of_cause in diverged.groupby(diverged["status"].map(_cause), sort=False):
        where = f"layer {_layers(of_cause)}" if cause else f"base lr {_numbers(of_cause['lr'])}"
        lines.append(f"{len(of_cause)} of {len(cells)} cells diverged ({where})" + f": {cause}; {ADVICE}" * bool(cause))
    for name, of_head in cells.groupby("kind", sort=False):
        open_ended = of_head["status"].str.startswith("not converged")
        if open_ended.any():
            penalties = _numbers(of_head["weight_decay"][open_ended])
            lines.append(f"{open_ended.sum()} of {len(of_head)} {name} cells did not converge (penalty {penalties})")
    for split, images in UNSCORED.items():
        unscored = cells[cells[f"{split}_unscored"] > 0]
        if len(unscored):
            most = unscored[f"{split}_unscored"].max()
            of_images = f"{most} {images} {plural(most, 'image')}, counted as {plural(most, 'an error', 'errors')}"
            which = f"{len(unscored)} of {len(cells)} cells (layer {_layers(unscored)})"
            lines.append(f"{which} have scores that are not finite for {of_images}; {ADVICE}")
    return lines


def _backbones(results: pd.DataFrame, data: pd.Series) -> pd.Series:
    """Return the chosen name of each row's store, or else its model, and the store's path where that is not enough."""
    chosen = results["name"].where(results["name"] != "").groupby(data).transform("last")
    name = chosen.fillna(results["model"])
    path = results["store"].groupby(data).transform("last")  # it may have been moved between two fits
    paths = path.groupby([name, results["dataset"]]).transform("nunique")
    name = name.where(paths == 1, name + " (" + path + ")")
    if "run" in results:  # two runs may have other images of the same store
        runs = data.groupby([name, results["dataset"]]).transform("nunique")
        name = name.where(runs == 1, name + " of " + results["run"].groupby(data).transform("first"))
    return name.map(printable)


def _heads(results: pd.DataFrame, source: pd.Series, spec: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Return the readable name and the look of each row's head.

    If a head of one source was trained with several settings, in several runs, each of these is a head.
    """
    named = zip(results["head"], results["head_config"], strict=True)
    head = pd.Series([head_name(*each) for each in named], index=results.index)
    if "setting" not in results:
        return head, spec
    number = results["setting"].groupby([source, spec]).transform(lambda settings: pd.factorize(settings)[0])
    several = number.groupby([source, spec]).transform("max") > 0
    run = results["run"].groupby([source, spec, number]).transform("first").map(printable)
    return head.where(~several, head + " of " + run), spec.where(number == 0, spec + " #" + number.astype(str))


def _head_line(row: Any) -> str:
    if pd.isna(row.test):
        return f"{row.head} ({row.spec}): diverged at every choice, on every layer"
    parts = [f"layer {row.layer}"]
    parts += [row.optimizer] if row.n_optimizers > 1 else []
    parts += [] if pd.isna(row.lr) else [f"base lr {row.lr:g}"]
    if row.weight_decay > 0:
        parts.append(f"{'penalty' if pd.isna(row.lr) else 'weight decay'} {row.weight_decay:g}")
    figure = f"test {FIGURES[row.figure]} {percent(row.test, row.test_std)} %"
    if not pd.isna(row.lr):
        figure += f" (peak over epochs {percent(row.peak)} %, optimism {100 * (row.peak - row.test):+.1f})"
    costs = [] if pd.isna(row.n_params) else [f"{row.n_params:,.0f} parameters"]
    costs += [] if pd.isna(row.flops_forward) else [f"{row.flops_forward:,.0f} FLOP per image"]
    spec = "" if row.head == row.spec else f" ({row.spec})"
    return f"{row.head}{spec}: {', '.join([*parts, figure])}" + ("; " + ", ".join(costs) if costs else "")


def _cause(status: str) -> str:
    return status.partition(": ")[2]


def _layers(cells: pd.DataFrame) -> str:
    return ", ".join(sorted(set(cells["layer"]), key=layer_order))


def _numbers(values: pd.Series) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values.unique()))
