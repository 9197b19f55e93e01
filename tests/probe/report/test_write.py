"""The files of a report: where they go, what is in them, what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tokenprobe.errors import InputError, MissingError
from tokenprobe.probe.report import figures, write_report
from tokenprobe.probe.report.config import ReportConfig
from tokenprobe.probe.report.contents import Report
from tokenprobe.probe.report.write import make_report, write_text
from tokenprobe.probe.run.results import Run
from tokenprobe.store import Store

from ..kit import fit_made, write_made

MakeReport = Callable[..., Report]
TABLES = [
    "backbones.csv",
    "backbones.tex",
    "cost.csv",
    "cost.tex",
    "layers.csv",
    "layers.tex",
    "shots.csv",
    "shots.tex",
]


@pytest.fixture(scope="module")
def run(write_store: Callable[..., Store], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    return fit_made(write_made(write_store, folder / "s.zarr"), folder / "run", heads=["linear", "ridge"], epochs=2)


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    shutil.copytree(run.path, tmp_path / "copy")
    return tmp_path / "copy"


def test_the_report_of_a_run_is_what_its_fit_wrote(run: Run, copy: Path) -> None:
    parts = ["summary.md", *(f"tables/{name}" for name in TABLES), "figures/layer_curve.png"]
    before = {name: (copy / name).read_bytes() for name in parts}
    for name in parts:
        (copy / name).unlink()
    _, folder = make_report([copy], ReportConfig())
    assert folder == copy
    # the run's path is no part of these
    assert {name: (copy / name).read_bytes() for name in parts} == before
    page = (copy / "report.html").read_text()
    assert page.replace(str(copy), str(run.path)) == (run.path / "report.html").read_text()


def test_several_runs_get_a_folder_of_their_own(
    run: Run, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    _, folder = make_report([run.path, copy], ReportConfig())
    assert folder == Path("report")
    assert sorted(path.name for path in folder.iterdir()) == ["figures", "report.html", "summary.md", "tables"]
    assert sorted(path.name for path in (folder / "tables").iterdir()) == TABLES
    assert {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()} == before


def test_figures_alone_are_drawn_again_in_another_style(copy: Path) -> None:
    text, figure = copy / "summary.md", copy / "figures" / "layer_curve.png"
    text.write_text("mine")
    before = figure.read_bytes()
    make_report([copy], ReportConfig(figures=True, style="slides"))
    assert text.read_text() == "mine" and figure.read_bytes() != before
    make_report([copy], ReportConfig(figures=True))
    assert figure.read_bytes() == before
    with pytest.raises(InputError, match="unknown style 'papr'; known: paper"):
        make_report([copy], ReportConfig(figures=True, style="papr"))


def test_places_that_are_refused(run: Run, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = run.path.parent / "s.zarr"
    for out, said in (
        (copy, "is a run, whose own report this would replace; give --out another folder"),
        (tmp_path / "file", "is a file; give --out another folder"),
        (store, "is a store; give --out another folder"),
        (copy / "inside", "is inside the run"),
    ):
        with pytest.raises(InputError, match=said):
            make_report([run.path], ReportConfig(out=out))
    with pytest.raises(InputError, match="a run is given twice; give each one once"):
        make_report([copy, f"{copy}/../copy"], ReportConfig(out=tmp_path / "report"))
    with pytest.raises(MissingError, match=r"no run at '.*none'; give a folder that probe fit has made"):
        make_report([tmp_path / "none"], ReportConfig())


def test_tables_have_the_figures_of_the_report(make_report: MakeReport, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"model": f"timm:{name}", "cell": f"{name}-layer_00-1", "test": test} for name, test in (("a", 0.7), ("b", 0.5))
    ]
    report = make_report(*rows, *(row | {"cell": row["cell"] + "4", "shots": "4", "test": 0.25} for row in rows))
    write_text(report, tmp_path)
    backbones = pd.read_csv(tmp_path / "tables" / "backbones.csv")
    assert backbones[["backbone", "shots", "test", "leads"]].to_numpy().tolist() == [
        ["timm:a", "full", 0.7, True],
        ["timm:b", "full", 0.5, False],
    ]
    assert backbones["behind_low"].iloc[1] == report.leaders["behind_low"].iloc[1] < -0.1
    assert len(pd.read_csv(tmp_path / "tables" / "shots.csv")) == 4
    costs = pd.read_csv(tmp_path / "tables" / "cost.csv")
    assert costs["n_params"].tolist() == [1_383_400] * 4 and costs["flops_forward"].tolist() == [21_990_000] * 4
    latex = (tmp_path / "tables" / "backbones.tex").read_text().splitlines()
    assert r"backbone & EP, 8 queries \\" in latex and "% EP, 8 queries is ep:queries=8" in latex
    assert r"timm:a & \textbf{70.0} @0 \\" in latex and r"timm:b & 50.0 @0 \\" in latex
    (caption,) = [line for line in latex if line.startswith(r"\caption")]
    assert caption == (
        r"\caption{Test top-1 on made in \%, all training images, 200 test images. "
        "Protocol select: epoch is selected on held-out images. @ is the selected layer. "
        "Bold: the best, and each figure whose difference from it may be chance.}"
    )
    assert "| timm:a | **70.0** @0 |" in (tmp_path / "summary.md").read_text().splitlines()
    assert "| timm:a | **70.0** @0 |" in (tmp_path / "summary.md").read_text().splitlines()


def test_names_cannot_act_on_latex_or_a_spreadsheet(make_report: MakeReport, tmp_path: Path) -> None:
    report = make_report({"test": 0.5, "name": "=1+1 & 100% {x}_\\y"}, {"head": "aim", "test": 0.25})
    write_text(report, tmp_path)
    assert r"=1+1 \& 100\% \{x\}\_\textbackslash{}y & " in (tmp_path / "tables" / "backbones.tex").read_text()
    table = pd.read_csv(tmp_path / "tables" / "backbones.csv")
    assert table["backbone"].tolist() == ["'=1+1 & 100% {x}_\\y"] * 2


def test_a_run_of_an_earlier_version_says_that_intervals_are_missing(copy: Path) -> None:
    shutil.rmtree(copy / "predictions")
    report, _ = make_report([copy], ReportConfig())
    missing = "a run of an earlier version does not keep what its cells predict; fit it again with another --out"
    assert any(missing in answer for answer in report.answers)
    assert "(no interval is known):" in (copy / "summary.md").read_text()


def test_every_figure_is_drawn(all_figures: tuple[str, ...]) -> None:
    assert tuple(figures.FIGURES) == all_figures


def test_a_fit_leaves_no_old_files_of_kinds_that_it_does_not_draw(run: Run, copy: Path) -> None:
    make_report([copy], ReportConfig())
    kinds = {file.suffix for file in (copy / "figures").iterdir()}
    assert kinds == {".png", ".svg", ".pdf"}
    write_report(Run(copy))
    assert {file.name for file in (copy / "figures").iterdir()} == {
        file.name for file in (run.path / "figures").iterdir()
    }
    assert {file.suffix for file in (copy / "figures").iterdir()} == {".png"}
