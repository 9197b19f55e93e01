"""Which files a report writes, and what it prints of them."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tokenprobe.probe.report import CONTENTS, print_run, write_report
from tokenprobe.probe.run.results import Run

MakeResults = Callable[..., pd.DataFrame]


@pytest.mark.parametrize("shots", [["full"], ["full", "4"]])
def test_the_files_are_those_that_are_printed(
    tmp_path: Path, make_results: MakeResults, capsys: pytest.CaptureFixture[str], shots: list[str]
) -> None:
    run = Run(tmp_path)
    run.results = make_results(*({"shots": name, "test": 0.582} for name in shots))
    write_report(run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "report.html", "summary.md", "tables"]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["layer_curve.png"]
    assert (tmp_path / "summary.md").read_text().startswith("# timm:none on made\n")
    print_run(run)
    said = capsys.readouterr().out
    assert "test top-1 in %" in said and "EP, 8 queries (ep:queries=8): layer 0, base lr 2, test top-1 58.2 %" in said
    table, files = said.split(f"\n{tmp_path}/\n")
    assert "58.2 *" in table
    shown = {line.split("  ")[1]: line.split("  ")[-1].strip() for line in files.splitlines()}
    assert shown.keys() == CONTENTS.keys()
