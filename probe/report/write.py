"""The files of a report: `summary.md`, the page, tables as CSV and LaTeX, and figures."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from ...errors import InputError, MissingError
from ...runtime.text import csv_cell
from ...store.durable import write_durably
from ...store.outputs import check_folder, is_run, is_store
from ..run.results import Run
from .captions import cost_caption, figure_caption
from .config import ReportConfig
from .contents import Report, gather
from .leaders import TABLE
from .page import summary_page
from .summary import best_layers, with_most_data
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
    most = leaders[leaders["shots"] == _most(leaders)]
    yield "backbones.csv", _csv(most[LEADER_COLUMNS])
    yield "shots.csv", _csv(leaders[LEADER_COLUMNS])
    yield "layers.csv", _csv(layers)
    yield "cost.csv", _csv(leaders[COST_COLUMNS])
    captioned = _captioned(report, most)
    yield from ((f"{name}.tex", _latex(report, tables)) for name, tables in captioned.items())


def _captioned(report: Report, most: pd.DataFrame) -> dict[str, list[tuple[str, pd.DataFrame]]]:
    """Return the tables of each LaTeX file, each behind its caption.

    Args:
        report: the report.
        most: the rows of its leaders with the most training data of their data set.
    """
    found: dict[str, list[tuple[str, pd.DataFrame]]] = {"backbones": [], "cost": [], "layers": [], "shots": []}
    for (dataset, _, _), rows in most.groupby(TABLE, sort=False):
        of, cells = f"on {dataset}", _same(report.cells, rows, TABLE)
        found["backbones"].append((figure_caption(rows, cells, of=of, at=True), leader_table(rows)))
        found["cost"].append((cost_caption(rows, cells, of=of), cost_table(rows)))
    for source, rows in report.summary.groupby("source", sort=False):
        of, layers, best = f"of {source}", with_most_data(rows), best_layers(rows)
        cells = _same(report.cells, layers, ["source", "shots"])
        found["layers"].append((figure_caption(layers, cells, of=of), layer_table(layers)))
        cells = _same(report.cells, rows, ["source"])
        found["shots"].append((figure_caption(best, cells, of=of, at=True), shots_table(rows)))
    return found


def _same(cells: pd.DataFrame, rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the cells that share the rows' values of some columns."""
    return cells[(cells[[*columns]] == rows.iloc[0][[*columns]]).all(axis=1)]


def _most(rows: pd.DataFrame) -> pd.Series:
    """Return the most training data of each row's data set."""
    return rows["dataset"].map(rows.groupby("dataset")["shots"].first())


def _csv(table: pd.DataFrame) -> str:
    texts = table.select_dtypes(include=["object", "string"]).columns
    guarded = {name: table[name].map(csv_cell, na_action="ignore") for name in texts}
    return str(table.assign(**guarded).to_csv(index=False))


def _latex(report: Report, tables: Iterable[tuple[str, pd.DataFrame]]) -> str:
    """Return tables in LaTeX, each with its caption, behind a comment that explains them."""
    lines = ["% Needs \\usepackage{booktabs}."]
    lines += [f"% {head} is {spec}" for head, spec in report.specs.items() if head != spec]
    for caption, table in tables:
        if len(table):
            lines += ["", r"\begin{table}", r"\centering", *latex_table(table)]
            lines += [rf"\caption{{{latex_text(caption)}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"
