"""The sheet that figures are drawn on: its size and fonts, panels, the legend, and the files."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ....errors import unknown_name
from ....store.durable import write_durably

COMMON: Any = {
    "svg.hashsalt": "tokenprobe",
    "pdf.fonttype": 42,  # journals refuse the default, Type 3
    "text.parse_math": False,  # a name is no formula
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#d9d9d9",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "legend.columnspacing": 1.0,
    "savefig.dpi": 300,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
}
STYLES: Mapping[str, Any] = {
    "paper": {
        "figure.figsize": (3.25, 2.1),
        "font.size": 7,
        "axes.labelsize": 7.5,
        "axes.titlesize": 7.5,
        "xtick.labelsize": 6.5,
        "ytick.labelsize": 6.5,
        "legend.fontsize": 6.5,
        "lines.linewidth": 1.1,
        "lines.markersize": 3.5,
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
    },
    "slides": {
        "figure.figsize": (8.0, 4.5),
        "font.size": 14,
        "axes.labelsize": 15,
        "axes.titlesize": 15,
        "xtick.labelsize": 13,
        "ytick.labelsize": 13,
        "legend.fontsize": 13,
        "lines.linewidth": 2.2,
        "lines.markersize": 7,
    },
}
"""Looks by name. "figure.figsize" is the width of a figure and the height of one panel, in inches."""
STACKED, A_ROW = 3, 3
"""Most panels in one column; more panels take twice the width, this many in a row."""
TITLE = 46
"""Characters of a title across a column of a paper."""
LONGEST_NAME = 44
"""Most characters on a line of a legend."""
KINDS: Mapping[str, dict[str, Any]] = {
    "png": {"metadata": {"Software": None}},
    "svg": {"metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None, "Producer": None, "Creator": None}},
}
"""Kinds of files, without the dates and versions that would change their bytes."""


@contextmanager
def styled(style: str) -> Iterator[None]:
    """Draw in a style, which is on top of "paper".

    Raises:
        InputError: there is no such style.
    """
    if style not in STYLES and style not in mpl.style.available and not Path(style).is_file():
        raise unknown_name("style", style, [*STYLES, *mpl.style.available])
    with mpl.rc_context(COMMON | STYLES["paper"]):
        if style in STYLES:
            mpl.rcParams.update(STYLES[style])
        else:
            mpl.style.use(style)
        yield


def make_panels(
    names: Sequence[str], *, rows: int = 1, height: float = 1.0, in_row: int = A_ROW
) -> tuple[Figure, list[Axes]]:
    """Make a figure with `rows` panels per name. The names are shown if there are several.

    Args:
        names: of the panels.
        rows: panels per name, one below the other.
        height: of a panel, as a multiple of the style's.
        in_row: panels beside one another, if there are more than `STACKED`.

    Returns:
        The figure, and its panels: all rows of the first name, then of the next.
    """
    width, inches = mpl.rcParams["figure.figsize"]
    n_columns = 1 if len(names) * rows <= STACKED else min(in_row, len(names)) if rows == 1 else 2
    n_rows = ceil(len(names) / n_columns) * rows
    figure = Figure(figsize=(width * min(n_columns, 2), inches * height * n_rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = []
    for number, name in enumerate(names):
        for row in range(rows):
            place = (number // n_columns * rows + row) * n_columns + number % n_columns
            axes = figure.add_subplot(n_rows, n_columns, place + 1)
            if len(names) > 1 and row == 0:
                axes.set_title(fill(name, TITLE * min(n_columns, 2) // n_columns))
            panels.append(axes)
    return figure, panels


def add_legend(figure: Figure, entries: Mapping[str, Artist]) -> None:
    """Put a legend below all panels, in as many columns as fit, and make the figure higher by what it needs."""
    if not entries:
        return
    most = 2 * round(figure.get_figwidth() / mpl.rcParams["figure.figsize"][0])
    names = [fill(name, LONGEST_NAME) for name in entries]
    for n_columns in range(min(most, len(entries)), 0, -1):
        legend = figure.legend(list(entries.values()), names, loc="outside lower center", ncols=n_columns)
        extent = legend.get_window_extent(figure.canvas.get_renderer())  # type: ignore[attr-defined]
        if extent.width <= figure.bbox.width or n_columns == 1:
            figure.set_figheight(figure.get_figheight() + extent.height / figure.dpi)
            return
        legend.remove()


def save(figure: Figure, folder: Path, name: str, kinds: Collection[str] = tuple(KINDS)) -> list[Path]:
    """Write a figure in some kinds of `KINDS`, and return the files. Files of other kinds are removed: they are old."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for kind in kinds:
        content = BytesIO()
        figure.savefig(content, format=kind, **KINDS[kind])
        figure.set_layout_engine("none")  # the first file has placed everything
        files.append(folder / f"{name}.{kind}")
        write_durably(files[-1], content.getvalue())
    remove(folder, name, [kind for kind in KINDS if kind not in kinds])
    return files


def remove(folder: Path, name: str, kinds: Iterable[str] = KINDS) -> None:
    """Remove a figure's files of some kinds."""
    for kind in kinds:
        (folder / f"{name}.{kind}").unlink(missing_ok=True)
