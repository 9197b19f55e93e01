"""The sheet: a paper's column, files whose bytes are those of the report, styles."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.lines import Line2D
from PIL import Image

from tokenprobe.errors import InputError
from tokenprobe.probe.report.contents import Report
from tokenprobe.probe.report.figures import FIGURES, draw_figures
from tokenprobe.probe.report.figures.canvas import add_legend, make_panels, save, styled

MakeReport = Callable[..., Report]
ROWS = [
    {"cell": f"none-layer_00-{layer}{head}", "layer": layer, "head": head, "head_config": "", "test": test}
    for head, tests in (("ep", (0.5, 0.6)), ("aim", (0.4, 0.55)))
    for layer, test in zip("01", tests, strict=True)
]


@pytest.fixture(autouse=True)
def paper() -> Iterator[None]:
    with styled("paper"):
        yield


def test_a_figure_is_as_wide_as_a_column(make_report: MakeReport, tmp_path: Path) -> None:
    files = draw_figures(make_report(*ROWS), tmp_path, "paper", FIGURES)
    names = ["layer_curve", "cost", "heat_map", "selected_and_peak", "confusion"]
    assert [file.name for file in files] == [f"{name}.{kind}" for name in names for kind in ("png", "svg", "pdf")]
    for name in names:
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.width == round(3.25 * 300)
            assert len(np.unique(np.asarray(image.convert("L")))) > 10
        assert 'width="234pt"' in (tmp_path / f"{name}.svg").read_text()
        pdf = (tmp_path / f"{name}.pdf").read_bytes()
        assert re.search(rb"/MediaBox \[ 0 0 234 ", pdf) and b"/Type3" not in pdf and b"CreationDate" not in pdf


def test_the_same_report_gives_the_same_bytes(make_report: MakeReport, tmp_path: Path) -> None:
    report = make_report(*ROWS)
    one, two = (draw_figures(report, tmp_path / name, "paper", ["layer_curve", "cost"]) for name in ("one", "two"))
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert "dc:date" not in one[1].read_text()


def test_a_figure_without_content_is_removed(make_report: MakeReport, tmp_path: Path) -> None:
    (tmp_path / "shots_curve.svg").write_text("of earlier results")
    (tmp_path / "mine.svg").write_text("mine")
    assert draw_figures(make_report(*ROWS), tmp_path, "paper", ["shots_curve"]) == []
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["mine.svg"]


@pytest.mark.parametrize("columns", [[4, 8, 30], [29, 29, 29, 29], [60], [4] * 20])
def test_a_legend_is_inside_the_figure(columns: list[int]) -> None:
    figure, [axes] = make_panels(["one"])
    axes.plot([0, 1], [0, 1])
    entries = {f"{number:02}" + "n" * (length - 2): Line2D([], []) for number, length in enumerate(columns)}
    before = figure.get_figheight()
    add_legend(figure, entries)
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= -1 and box.x1 <= figure.bbox.width + 1 and box.y0 >= -1
    assert axes.get_window_extent().height > 0.6 * before * figure.dpi * 0.8, "the legend takes nothing of the panel"


def test_many_panels_take_two_columns() -> None:
    for n, width in ((1, 3.25), (3, 3.25), (4, 6.5)):
        figure, panels = make_panels([str(number) for number in range(n)])
        assert (figure.get_figwidth(), len(panels)) == (width, n)
        assert [axes.get_title() for axes in panels] == ([""] if n == 1 else [str(number) for number in range(n)])


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    figure, panels = make_panels([r"folder:$a_{$", "b"])
    assert panels[0].get_title() == r"folder:$a_{$"
    assert len(save(figure, tmp_path, "x")) == 3


def test_styles(tmp_path: Path) -> None:
    file = tmp_path / "mine.mplstyle"
    file.write_text("font.size: 5\nfigure.figsize: 2, 1\n")
    for style, size in (("slides", 14), ("ggplot", 10), (str(file), 5)):
        with styled(style):
            assert mpl.rcParams["font.size"] == size and not mpl.rcParams["text.parse_math"]
    assert mpl.rcParams["font.size"] == 7
    with pytest.raises(InputError, match="unknown style 'slide'; known: slides, "), styled("slide"):
        pass
