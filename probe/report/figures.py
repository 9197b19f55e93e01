"""Figures of a run. No display is needed, and the same results give the same files."""

from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
"""Okabe and Ito's palette, which stays apart for colour-blind readers."""
MARKERS = "osD^vPX"


def draw_layer_curve(summary: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw test top-1 over layers, a line a head with a band of one standard deviation over seeds.

    Args:
        summary: of `summarise`.
        folder: where `layer_curve.png` and `.svg` go.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (head, rows) in enumerate(summary.groupby("head", sort=False)):
        rows = rows.assign(layer=rows["layer"].astype(int)).sort_values("layer")
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[(number + number // len(MARKERS)) % len(MARKERS)]
        top1, std = 100 * rows["test_top1"], 100 * rows["test_top1_std"].fillna(0)
        axes.plot(rows["layer"], top1, color=colour, marker=marker, markersize=5, label=str(head))
        axes.fill_between(rows["layer"], top1 - std, top1 + std, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("layer")
    axes.set_ylabel("test top-1 (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    files = [folder / f"layer_curve.{kind}" for kind in ("png", "svg")]
    with mpl.rc_context({"svg.hashsalt": "tokenprobe"}):
        figure.savefig(files[0], dpi=200, metadata={"Software": None})
        figure.savefig(files[1], metadata={"Date": None})
    return files
