"""Figures of training: sensitivity to the learning rate, and losses and figures over epochs."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..contents import KEY, Report
from ..summary import best_layers, with_most_data
from .canvas import add_legend, make_panels
from .looks import look_of
from .marks import (
    OVER_SEEDS,
    band_entry,
    draw_line,
    figure_label,
    head_entries,
    plain_log,
    ring,
    selected_entry,
    share_figures,
)


def draw_rates(report: Report) -> Figure | None:
    """Draw each trained head at its selected layer over its learning rates. The ring marks the selected rate.

    Optimizer and weight decay are the selected ones.

    Rates stand at equal distances. One at which a cell diverged has a cross at the bottom.
    """
    fixed = ["optimizer", "weight_decay"]
    best = best_layers(with_most_data(report.summary)).dropna(subset="lr")
    cells = report.cells.merge(best[[*KEY, *fixed]], on=[*KEY, *fixed])
    if cells["lr"].nunique() < 2:
        return None
    sources = list(cells["source"].unique())
    figure, panels = make_panels(list(map(report.title, sources)))
    rates = sorted(cells["lr"].unique())
    entries = head_entries(report, list(cells["head"].unique())) | selected_entry("selected rate")
    for axes, source in zip(panels, sources, strict=True):
        of_source = cells[cells["source"] == source]
        lost: dict[float, list[str]] = {}
        for (_, spec), of_head in of_source.groupby(["head", "look"], sort=False):
            rows = _over_rates(of_head, rates)
            draw_line(axes, rows, look_of(spec))
            for row in rows[rows["selected"]].itertuples():
                ring(axes, row.x, row.y)
            for x in rows["x"][rows["lost"]]:
                lost.setdefault(x, []).append(spec)
        for x, specs in lost.items():
            for number, spec in enumerate(specs):
                place = x + 0.12 * (number - (len(specs) - 1) / 2)
                axes.plot([place], [0.03], marker="x", color=look_of(spec).color, transform=axes.get_xaxis_transform())
        axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        axes.set_xlabel("base learning rate")
        axes.set_ylabel(figure_label(of_source["figure"].iloc[0]))
        entries |= band_entry(OVER_SEEDS if of_source["seed"].nunique() > 1 else None)
        entries |= {"diverged": Line2D([], [], color="0.3", marker="x", linestyle="none")} if lost else {}
    share_figures(panels, list(cells["figure"]))
    add_legend(figure, entries)
    return figure


def _over_rates(cells: pd.DataFrame, rates: list[float]) -> pd.DataFrame:
    """Return the mean figure in percent per rate, and its standard deviation over seeds."""
    diverged = cells["status"].str.startswith("diverged")
    rows = (
        cells.assign(test=cells["test"].mask(diverged), lost=diverged)
        .groupby("lr")
        .agg(
            y=("test", lambda values: 100 * values.mean(skipna=False)),
            std=("test", lambda values: 100 * values.std()),
            selected=("selected", "any"),
            lost=("lost", "any"),
        )
    )
    half = rows["std"].fillna(0)
    return rows.assign(low=rows["y"] - half, high=rows["y"] + half, x=[rates.index(rate) for rate in rows.index])


def draw_training(report: Report) -> Figure | None:
    """Draw the training loss and the figure that selects over epochs, of each trained head at its selected layer."""
    best = best_layers(with_most_data(report.summary))
    history = report.history
    if history.empty:
        return None
    history = history.merge(best[KEY], on=KEY)
    if history.empty or history["epoch"].nunique() < 2:
        return None
    sources = list(history["source"].unique())
    figure, panels = make_panels(list(map(report.title, sources)), rows=2, height=0.85)
    for number, source in enumerate(sources):
        rows = history[history["source"] == source]
        loss, score = panels[2 * number : 2 * number + 2]
        _draw_losses(loss, rows)
        _draw_scores(score, rows)
        score.set_xlabel("epoch")
        score.xaxis.set_major_locator(MaxNLocator(integer=True))
        loss.sharex(score)
        loss.tick_params(labelbottom=False)
    entries = head_entries(report, list(history["head"].unique()))
    several = history["seed"].nunique() > 1
    add_legend(figure, entries | (band_entry(OVER_SEEDS) if several else selected_entry("selected epoch")))
    return figure


def _draw_losses(axes: Axes, rows: pd.DataFrame) -> None:
    for (_, spec), of_head in rows.groupby(["head", "look"], sort=False):
        losses = of_head.groupby("epoch")["train_loss"].mean()
        axes.plot(losses.index, losses, **look_of(spec)._asdict(), markevery=_every(len(losses)))
    axes.set_yscale("log")
    plain_log(axes.yaxis, subs=(1, 2, 5))
    axes.set_ylabel("training loss")


def _draw_scores(axes: Axes, rows: pd.DataFrame) -> None:
    figure = rows["figure"].iloc[0]
    for (_, spec), of_head in rows.groupby(["head", "look"], sort=False):
        split = "val" if of_head["protocol"].iloc[0] == "select" else "test"
        scores = 100 * of_head.groupby("epoch")[f"{split}_{figure}"].agg(["mean", "std"])
        half, look = scores["std"].fillna(0), look_of(spec)
        axes.plot(scores.index, scores["mean"], **look._asdict(), markevery=_every(len(scores)))
        axes.fill_between(
            scores.index, scores["mean"] - half, scores["mean"] + half, color=look.color, alpha=0.18, lw=0
        )
        if rows["seed"].nunique() == 1:
            epoch = of_head["best_epoch"].iloc[0]
            ring(axes, epoch, scores["mean"][epoch])
    images = ["held-out" if protocol == "select" else "test" for protocol in rows["protocol"].unique()]
    axes.set_ylabel(figure_label(figure, " or ".join(images)))


def _every(n_points: int) -> int:
    """Return the distance of markers on a line of many points."""
    return max(1, n_points // 6)
