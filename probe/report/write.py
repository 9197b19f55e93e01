"""The files of a report: `summary.md`, the page, tables as CSV and LaTeX, and figures."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pandas as pd

from ...errors import InputError, MissingError
from ...runtime.text import csv_cell
from ...store.durable import write_durably
from ...store.outputs import check_folder, is_run, is_store
from ..run.results import Run
from .config import ReportConfig
from .contents import Report, gather
from .leaders import TABLE
from .page import summary_page
from .summary import FIGURES as FIGURE_WORDS
from .summary import shots_words, with_most_data
from .tables import cost_table, latex_table, latex_text, layer_table, leader_table, shots_table

DEFAULT_OUT = "report"
FIGURES = (
    "layer_curve", "shots_curve", "backbones", "cost", "heat_map", "selected_and_peak", "learning_rates",
    "training_curves", "confusion",
)  # fmt: skip
"""The figures that are drawn, by their names in `figures.FIGURES`."""
LEADER_COLUMNS = [
    "dataset", "backbone", "head", "spec", "shots", "layer", "figure", "test", "test_std", "low", "high", "n_seeds",
    "n_test", "n_val", "behind", "behind_low", "behind_high", "n_paired", "leads", "val", "peak", "optimizer", "lr",
    "weight_decay",
]  # fmt: skip
COST_COLUMNS = [
    "dataset", "backbone", "head", "spec", "shots", "layer", "n_params", "flops_forward", "flops_train",
    "train_seconds", "sweep_seconds",
]  # fmt: skip


def make_report(paths: Sequence[str | Path], config: ReportConfig) -> tuple[Report, Path]:
    """Read runs and write their report.

    Returns:
        The report and its folder.

    Raises:
        InputError: the folder cannot hold the report, a run is given twice, or there is no such style.
        MissingError: there is no such run, or it has no results.
        RunError: a file of a run is damaged.
    """
    runs = [_open_run(Path(path)) for path in paths]
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise InputError("a run is given twice; give each one once")
    folder = _folder(runs, config.out)
    report = gather(runs)
    if not config.figures:
        write_text(report, folder)
    write_figures(report, folder, config.style)
    return report, folder


def write_text(report: Report, folder: Path) -> None:
    """Write `tables/`, `report.html` and then `summary.md`."""
    from .html.page import html_page  # loads matplotlib, for the colours of heads

    tables = folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    for name, content in _tables(report):
        write_durably(tables / name, content.encode())
    write_durably(folder / "report.html", html_page(report).encode())
    write_durably(folder / "summary.md", summary_page(report).encode())


def write_figures(
    report: Report, folder: Path, style: str = "paper", kinds: Collection[str] = ("png", "svg", "pdf")
) -> list[Path]:
    """Write `figures/` in some kinds of files, and return the files.

    Raises:
        InputError: there is no such style.
    """
    from .figures import draw_figures  # loads matplotlib

    return draw_figures(report, folder / "figures", style, FIGURES, kinds)


def _open_run(path: Path) -> Run:
    if not is_run(path):
        raise MissingError(f"no run at {str(path)!r}; give a folder that probe fit has made")
    return Run(path)


def _folder(runs: Sequence[Run], out: str | Path | None) -> Path:
    """Return the folder of the report. It may be the only run's own folder, and no other run's."""
    if out is None:
        out = runs[0].path if len(runs) == 1 else DEFAULT_OUT
    path = check_folder(out)
    if is_store(path) or (path.exists() and not path.is_dir()):
        raise InputError(f"{str(out)!r} is a {'store' if path.is_dir() else 'file'}; give --out another folder")
    if is_run(path) and [run.path.resolve() for run in runs] != [path.resolve()]:
        raise InputError(f"{str(out)!r} is a run, whose own report this would replace; give --out another folder")
    return path


def _tables(report: Report) -> Iterator[tuple[str, str]]:
    """Yield the name and the content of each table's files."""
    leaders, layers = report.leaders, report.summary.drop(columns=["data", "look", "train_seconds", "sweep_seconds"])
    yield "backbones.csv", _csv(leaders[leaders["shots"] == _most(leaders)][LEADER_COLUMNS])
    yield "shots.csv", _csv(leaders[LEADER_COLUMNS])
    yield "layers.csv", _csv(layers)
    yield "cost.csv", _csv(leaders[COST_COLUMNS])
    by_table = [(key, rows) for key, rows in leaders.groupby(TABLE, sort=False)]
    most = [(key, rows) for key, rows in by_table if (rows["shots"] == _most(rows, leaders)).all()]
    yield "backbones.tex", _latex(report, ((_caption(*key), leader_table(rows)) for key, rows in most))
    yield "cost.tex", _latex(report, ((_caption(*key), cost_table(rows)) for key, rows in most))
    each = list(report.summary.groupby("source", sort=False))
    yield "layers.tex", _latex(report, ((source, layer_table(with_most_data(rows))) for source, rows in each))
    yield "shots.tex", _latex(report, ((source, shots_table(rows)) for source, rows in each))


def _most(rows: pd.DataFrame, leaders: pd.DataFrame | None = None) -> pd.Series:
    """Return the most training data of each row's data set."""
    known = rows if leaders is None else leaders
    return rows["dataset"].map(known.groupby("dataset")["shots"].first())


def _caption(dataset: str, figure: str, shots: str) -> str:
    return f"Test {FIGURE_WORDS[figure]} on {dataset}, {shots_words(shots)}"


def _csv(table: pd.DataFrame) -> str:
    texts = table.select_dtypes(include=["object", "string"]).columns
    guarded = {name: table[name].map(csv_cell, na_action="ignore") for name in texts}
    return str(table.assign(**guarded).to_csv(index=False))


def _latex(report: Report, tables: Iterator[tuple[str, pd.DataFrame]]) -> str:
    """Return tables in LaTeX, each with its caption, behind a comment that explains them."""
    lines = ["% Needs \\usepackage{booktabs}. @ is the selected layer; bold: the best, and what may differ by chance."]
    lines += [f"% {head} is {spec}" for head, spec in report.specs.items() if head != spec]
    for caption, table in tables:
        if len(table):
            lines += ["", r"\begin{table}", r"\centering", *latex_table(table)]
            lines += [rf"\caption{{{latex_text(caption)}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"
