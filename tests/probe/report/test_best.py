"""The cell that `--cell best` names: that of the summary's answer."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tokenprobe.errors import InputError, MissingError
from tokenprobe.probe.report.best import best_cell
from tokenprobe.probe.report.contents import gather
from tokenprobe.probe.run.results import Run
from tokenprobe.probe.run.saved import saved_cells
from tokenprobe.probe.run.tables import table_bytes

from .conftest import ROW, TYPES


def make_run(folder: Path, *rows: dict[str, Any]) -> Run:
    table = pd.DataFrame([ROW | row for row in rows])
    folder.mkdir()
    (folder / "results.parquet").write_bytes(table_bytes(table.astype(TYPES)))
    return Run(folder)


def cell(name: str, layer: str, val: float, test: float, **other: Any) -> dict[str, Any]:
    return {"cell": f"none-layer_{layer}-{name}", "layer": layer, "val_top1": val, "test_top1": test} | other


ROWS = [
    cell("ep", "0", 0.60, 0.90),
    cell("ep", "1", 0.80, 0.50),
    cell("ep-few", "1", 0.95, 0.95, shots="1"),
    cell("ep-other-rate", "1", 0.99, 0.99, selected=False),
    cell("linear", "1", 0.85, 0.40, head="linear", head_config="pool=cls"),
    cell("lost", "1", float("nan"), float("nan"), head="aim", head_config="", status="diverged in epoch 1"),
]
"""The test figures are against the choice: they must not be looked at."""
ALL = {row["cell"] for row in ROWS}


def test_the_best_is_selected_on_held_out_images_of_the_most_data(tmp_path: Path) -> None:
    assert best_cell(make_run(tmp_path / "run", *ROWS), ALL, "cell") == "none-layer_1-linear"


def test_the_best_is_among_those_that_are_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", *ROWS)
    assert best_cell(run, ALL - {"none-layer_1-linear"}, "cell") == "none-layer_1-ep"
    with pytest.raises(
        InputError, match=r"has no selected cell with a head; name a cell of its results.csv with --cell"
    ):
        best_cell(run, {"none-layer_1-ep-other-rate"}, "cell with a head")
    with pytest.raises(InputError, match="has no selected cell"):
        best_cell(run, {"none-layer_1-lost"}, "cell")


def test_the_summary_names_the_same_cell_though_its_answer_looks_at_the_test_split(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", *ROWS)
    assert not [line for line in gather([run]).answers if "--cell best" in line], "no head is saved"
    (run.path / "heads").mkdir()
    for name in ALL - {"none-layer_1-ep-other-rate"}:
        (run.path / "heads" / f"{name}.safetensors").touch()
    first, *_, last = gather([run]).answers
    assert "EP" in first and last == "  best on held-out images (--cell best): none-layer_1-linear"
    assert last.endswith(best_cell(run, saved_cells(run.path), "cell"))
    (run.path / "heads" / "none-layer_1-linear.safetensors").unlink()
    assert gather([run]).answers[-1].endswith(": none-layer_1-ep")
    assert gather([run]).answers[-1].endswith(best_cell(run, saved_cells(run.path), "cell"))
    of_paper = make_run(tmp_path / "paper", *(row | {"protocol": "paper"} for row in ROWS))
    (of_paper.path / "heads").symlink_to(run.path / "heads")
    assert gather([of_paper]).answers[-1] == "  best on the test split (--cell best): none-layer_0-ep"


def test_under_protocol_paper_the_test_figure_decides(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", *(row | {"protocol": "paper"} for row in ROWS))
    assert best_cell(run, ALL, "cell") == "none-layer_0-ep"


def test_of_several_seeds_it_is_the_first_and_their_mean_decides(tmp_path: Path) -> None:
    rows = [
        cell("b-seed1", "1", 0.9, 0.5, seed=1),
        cell("b-seed0", "1", 0.5, 0.5, seed=0),
        cell("a-seed1", "0", 0.8, 0.5, seed=1),
        cell("a-seed0", "0", 0.7, 0.5, seed=0),
    ]
    assert best_cell(make_run(tmp_path / "run", *rows), {r["cell"] for r in rows}, "cell") == "none-layer_0-a-seed0"


def test_a_run_without_results_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", *ROWS)
    empty = Run(run.path)
    empty.results = empty.results.iloc[:0]
    with pytest.raises(MissingError, match="has no results yet; wait for its probe fit"):
        best_cell(empty, ALL, "cell")
