"""The summary: the selected cell of every head on every layer, mean ± standard deviation over seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from rich.table import Table

from ...store.durable import write_durably

if TYPE_CHECKING:
    from ..results import Run

PROTOCOL_NOTES = {
    "select": "learning rate, weight decay and epoch are selected on held-out training images",
    "paper": "best epoch on the test split itself, as published tables report; optimistic by construction",
}


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Return one row a (head, layer): test top-1 of the selected cells over seeds, and what was selected.

    Columns: head (with its settings), layer, test_top1, test_top1_std (NaN with one seed), val_top1,
    peak_test_top1, lr, weight_decay, n_seeds, protocol, n_params, flops_forward (per image). Accuracies are fractions.
    """
    chosen = results[results["selected"]].copy()
    chosen["head"] = chosen["head"] + (":" + chosen["head_config"]).where(chosen["head_config"] != "", "")
    grouped = chosen.groupby(["head", "layer"], sort=False)
    summary = grouped.agg(
        test_top1=("test_top1", "mean"),
        test_top1_std=("test_top1", "std"),
        val_top1=("val_top1", "mean"),
        peak_test_top1=("peak_test_top1", "mean"),
        lr=("lr", "first"),
        weight_decay=("weight_decay", "first"),
        n_seeds=("seed", "count"),
        protocol=("protocol", "first"),
        n_params=("n_params", "first"),
        flops_forward=("flops_forward", "first"),
    )
    return summary.reset_index()


def layer_table(summary: pd.DataFrame) -> pd.DataFrame:
    """Return test top-1 with a row a layer and a column a head, as text in percent."""
    cells = summary.assign(
        text=[
            f"{100 * mean:.1f}" if pd.isna(std) else f"{100 * mean:.1f} ± {100 * std:.1f}"
            for mean, std in zip(summary["test_top1"], summary["test_top1_std"], strict=True)
        ]
    )
    heads = list(dict.fromkeys(summary["head"]))
    layers = sorted(set(summary["layer"]), key=int)
    return cells.pivot_table(index="layer", columns="head", values="text", aggfunc="first").loc[layers, heads]


def best_layers(summary: pd.DataFrame) -> pd.DataFrame:
    """Return each head's best layer: the row of the summary that the protocol would pick."""
    figure = summary["val_top1"].where(summary["protocol"] == "select", summary["test_top1"])
    return summary.loc[figure.groupby(summary["head"], sort=False).idxmax()]


def rich_table(summary: pd.DataFrame) -> Table:
    """Return the layer table for a terminal; each head's selected layer is marked."""
    text = layer_table(summary)
    marked = {(row.head, row.layer) for row in best_layers(summary).itertuples()}
    table = Table(title="test top-1 in % (* the layer that the protocol selects)")
    table.add_column("layer", justify="right", no_wrap=True)
    for head in text.columns:
        table.add_column(head, justify="right", overflow="fold")
    for layer, row in text.iterrows():
        table.add_row(
            str(layer), *(f"{value} *" if (head, layer) in marked else f"{value}  " for head, value in row.items())
        )
    return table


def best_lines(summary: pd.DataFrame) -> list[str]:
    """Return a line a head: its selected layer, its figure, how much a peak on the test split flatters it, its cost."""
    return [
        f"{row.head}: layer {row.layer}, base lr {row.lr:g}, test top-1 {100 * row.test_top1:.1f} % "
        f"(peak over epochs {100 * row.peak_test_top1:.1f} %, optimism "
        f"{100 * (row.peak_test_top1 - row.test_top1):+.1f}); {row.n_params:,} parameters, "
        f"{row.flops_forward:,} FLOP an image"
        for row in best_layers(summary).itertuples()
    ]


def write_summary(summary: pd.DataFrame, run: Run) -> None:
    """Write `summary.md`."""
    text = layer_table(summary)
    lines = [
        f"# {run.results['model'].iloc[0]} on {run.results['dataset'].iloc[0]}",
        "",
        f"Test top-1 in %: {PROTOCOL_NOTES[summary['protocol'].iloc[0]]}.",
        "",
        "| layer | " + " | ".join(text.columns) + " |",
        "|--:|" + "--:|" * len(text.columns),
        *(
            f"| {layer} | " + " | ".join(map(str, row)) + " |"
            for layer, row in zip(text.index, text.values, strict=True)
        ),
        "",
        *(f"* {line}" for line in best_lines(summary)),
    ]
    write_durably(run.path / "summary.md", ("\n".join(lines) + "\n").encode())
