"""Figures of a report, for a paper's column: PNG, SVG and PDF. Nothing is trained and no display is needed.

`FIGURES` lists them. Each function returns a figure, or None where the report has nothing to show in it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from ..contents import Report
from .canvas import KINDS, remove, save, styled
from .cost import draw_cost
from .curves import draw_layers, draw_shots
from .dots import draw_backbones, draw_peaks
from .grids import draw_confusion, draw_heat_map
from .training import draw_rates, draw_training

FIGURES: Mapping[str, Callable[[Report], Figure | None]] = {
    "layer_curve": draw_layers,
    "shots_curve": draw_shots,
    "backbones": draw_backbones,
    "cost": draw_cost,
    "heat_map": draw_heat_map,
    "selected_and_peak": draw_peaks,
    "learning_rates": draw_rates,
    "training_curves": draw_training,
    "confusion": draw_confusion,
}


def draw_figures(
    report: Report, folder: Path, style: str, names: Iterable[str], kinds: Collection[str] = tuple(KINDS)
) -> list[Path]:
    """Draw the figures that the report has content for. The same report gives the same bytes.

    Args:
        report: from `gather`.
        folder: where the files go. A figure that the report has nothing for is removed from it.
        style: a name in `canvas.STYLES`, a style of matplotlib, or a file of one.
        names: of the figures, from `FIGURES`.
        kinds: of the files, from `KINDS`. Files of other kinds are removed.

    Returns:
        The files.

    Raises:
        InputError: there is no such style.
    """
    files = []
    with styled(style):
        for name in names:
            figure = FIGURES[name](report)
            if figure is None:
                remove(folder, name)
            else:
                files += save(figure, folder, name, kinds)
    return files
