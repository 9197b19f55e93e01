"""Rows of benchmarks: ratios of paired turns, JSON lines, and the table."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ROWS: dict[str, Any] = runpy.run_path(str(ROOT / "benchmarks" / "rows.py"))
NO_RATIOS = {"arithmetic", "compare", "page", "run_all", "sizing", "tables"}
"""Scripts that measure no ratio between two sides."""


def test_calls_take_turns_after_a_warm_up_and_only_they_are_timed() -> None:
    order, now = list[str](), [0.0]

    def call(name: str, seconds: float) -> None:
        order.append(name)
        now[0] += seconds

    calls = {"a": lambda: call("a", 1.0), "b": lambda: call("b", 4.0)}
    found = ROWS["take_turns"](calls, 2, clock=lambda: now[0], before=lambda: call("-", 0.5))
    assert found == {"a": [1.0, 1.0], "b": [4.0, 4.0]}
    assert "".join(order) == 3 * "-a-b"


def test_a_ratio_is_the_other_side_over_ours_within_each_turn() -> None:
    row = ROWS["make_row"]("work", [1.0, 2.0, 4.0], [3.0, 2.0, 6.0], "CPU s")
    assert row["ratio"] == {"min": 1.0, "median": 1.5, "max": 3.0}
    assert (row["ours"], row["theirs"], row["repeats"], row["unit"]) == (2.0, 3.0, 3, "CPU s")


def test_the_table_shows_units_spreads_losses_and_what_did_not_run() -> None:
    rows = [
        ROWS["make_row"]("lost", [0.002, 0.004], [0.001, 0.001]),
        ROWS["make_row"]("once", [2**20], [3 * 2**20], "bytes"),
        ROWS["make_row"]("slow", [500.4], [1.25], "CPU s"),
        ROWS["not_run"]("absent", "give --reference PATH"),
    ]
    assert ROWS["markdown"](rows).splitlines()[2:] == [
        "| lost | 3 ms | 1 ms | **0.38** (0.25 to 0.50) |",
        "| once | 1 MiB | 3 MiB | 3.00 |",
        "| slow | 500 CPU s | 1.25 CPU s | **0.002** |",
        "| absent | | | not run: give --reference PATH |",
    ]


def test_a_report_describes_the_run_and_a_file_is_complete_or_as_before(tmp_path: Path) -> None:
    """Rows that were measured before a failure are in another file."""
    file, partial = tmp_path / "new.jsonl", tmp_path / "new.jsonl.partial"
    row = ROWS["make_row"]("×", [1.0], [2.0])

    def measured() -> Any:
        yield row
        raise KeyboardInterrupt

    for before in (None, "earlier\n"):
        if before is not None:
            file.write_text(before)
        with pytest.raises(KeyboardInterrupt):
            ROWS["report"]("sums", measured(), file)
        assert (file.read_text() if file.exists() else None) == before
        assert json.loads(partial.read_text().splitlines()[1]) == row
    ROWS["report"]("sums", [row], file)
    assert not partial.exists()
    run, kept = map(json.loads, file.read_text().splitlines())
    assert kept == row and ROWS["read_rows"](file.read_text()) == {"×": row}
    assert {"benchmark", "date", "command", "machine", "gpu", "load", "versions"} == set(run)
    assert run["benchmark"] == "sums" and len(run["load"]) == 3 and "cores" in run["machine"]


def test_every_benchmark_writes_these_rows() -> None:
    scripts = {file.stem: file.read_text() for file in (ROOT / "benchmarks").glob("*.py")}
    measuring = {name for name, text in scripts.items() if "def main()" in text and name != "object_server"} - NO_RATIOS
    assert len(measuring) == 16
    for name in measuring:
        assert "report(" in scripts[name] or "write_lines(" in scripts[name], name
