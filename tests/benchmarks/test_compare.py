"""Ratios of two runs: what regressed, what improved, and what lies within the spread."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
OLD = {"slower": (1, 2, 3), "faster": (1, 2, 3), "as before": (1, 2, 3), "gone": (1, 1, 1)}
NEW = {"slower": (0.5, 0.6, 0.9), "faster": (3.1, 4, 5), "as before": (0.5, 1, 1), "first": (7, 8, 9)}
VERDICTS = [
    "slower: regressed: 2.00 before, 0.60 now (× 0.30)",
    "faster: improved: 2.00 before, 4.00 now (× 2.00)",
    "as before: within the spread: 2.00 before, 1.00 now (× 0.50)",
    "gone: not measured this time",
    "first: new: 8.00",
]


def write(path: Path, rows: Mapping[str, tuple[float, float, float]]) -> Path:
    lines = [json.dumps({"benchmark": "sums"}), "a line of the log", json.dumps({"name": "gone", "not_run": "why"})]
    for name, (least, median, most) in rows.items():
        lines.append(json.dumps({"name": name, "ratio": {"min": least, "median": median, "max": most}}))
    path.write_text("\n".join(lines) + "\n")
    return path


def compare(*words: Path, scripts: Path = SCRIPTS) -> tuple[int, list[str]]:
    command: list[str | Path] = [sys.executable, scripts / "compare.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout or done.stderr).splitlines()


def test_a_row_regressed_if_its_best_ratio_is_below_the_worst_before(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old.jsonl", OLD), write(tmp_path / "new.jsonl", NEW)
    assert compare(new, old) == (1, VERDICTS)
    assert compare(old, old)[0] == 0


def test_a_run_is_compared_with_the_results_that_were_committed_last(tmp_path: Path) -> None:
    """An older file, one of another benchmark, and one that is not committed do not count."""
    for name in ("compare.py", "rows.py"):
        shutil.copy(SCRIPTS / name, tmp_path)
    results = tmp_path / "results"
    results.mkdir()
    new = write(tmp_path / "new.jsonl", NEW)
    git: list[str | Path] = ["git", "-C", results, "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    write(results / "2026-01-01-sums.jsonl", NEW)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "nothing yet"], check=True)
    assert compare(new, scripts=tmp_path) == (1, [f"no results of 'sums' are committed in {results}; name OLD"])
    write(results / "2026-01-02-sums.jsonl", OLD)
    write(results / "2026-01-03-other-sums.jsonl", NEW)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "results"], check=True)
    write(results / "2026-01-02-sums.jsonl", NEW)
    write(results / "2026-01-04-sums.jsonl", NEW)
    assert compare(new, scripts=tmp_path) == (1, VERDICTS)
