"""The page of benchmarks shows what the committed results say, and nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "benchmarks.md").read_text()


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import run_all
    import tables

    return {"tables": tables, "run_all": run_all}


def row(name: str, ratio: float | None) -> dict[str, Any]:
    if ratio is None:
        return {"name": name, "not_run": "why"}
    spread = {"min": ratio, "median": ratio, "max": ratio}
    return {"name": name, "unit": "s", "ours": 1.0, "theirs": ratio, "repeats": 1, "ratio": spread}


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    run = {"date": file.name[:10], "command": "go", "machine": "a machine", "gpu": None, "load": [0.5, 1, 2]}
    lines = [run | {"benchmark": "sums", "versions": {"Python": "3", "triton": "none"}}, *rows]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_page_has_the_tables_of_the_committed_results(scripts: dict[str, Any]) -> None:
    assert scripts["tables"].filled(PAGE) == PAGE


def test_every_benchmark_of_make_bench_has_a_place_on_the_page(scripts: dict[str, Any]) -> None:
    places = re.findall(r"^<!-- (?!end)(\S+) -->$", PAGE, re.MULTILINE)
    assert [name for name in places if not name.endswith(".md")] == [*scripts["run_all"].SETTINGS]


def test_a_row_is_from_the_newest_run_that_measured_it(scripts: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "2026-01-01-sums.jsonl", [row("both", 7), row("old code", 3), row("gone", 4)])
    write(tmp_path / "2026-01-02-sums.jsonl", [row("both", 2), row("old code", None), row("never", None)])
    write(tmp_path / "2026-01-02-other-sums.jsonl", [row("both", 9)])
    page = "before\n<!-- sums -->\nold\n<!-- end -->\nafter\n"
    assert scripts["tables"].filled(page, tmp_path).splitlines() == [
        "before",
        "<!-- sums -->",
        "| work, and the other side | ours | theirs | theirs / ours (least to most) |",
        "|---|--:|--:|--:|",
        "| both | 1 s | 2 s | 2.00 |",
        "| old code | 1 s | 3 s | 3.00 |",
        "| never | | | not run: why |",
        "",
        "*2026-01-01, `go`. a machine; load before the run 0.5 1 2. Python 3.*",
        "",
        "*2026-01-02, `go`. a machine; load before the run 0.5 1 2. Python 3.*",
        "<!-- end -->",
        "after",
    ]


def test_the_first_table_of_a_markdown_file_is_quoted(scripts: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A\n\n| x |\n|---|\n| 1 |\n\n| y |\n")
    assert scripts["tables"].table("a.md", tmp_path) == "| x |\n|---|\n| 1 |"


def test_a_benchmark_without_results_is_shown_as_such(scripts: dict[str, Any], tmp_path: Path) -> None:
    assert scripts["tables"].table("sums", tmp_path) == "*Not measured yet.*"
