"""Ratios of two runs: what regressed, what improved, and what lies within the spread."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compare.py"
OLD = {"slower": (1, 2, 3), "faster": (1, 2, 3), "as before": (1, 2, 3), "cost": (1, 2, 3), "gone": (1, 1, 1)}
NEW = {
    "slower": (0.5, 0.6, 0.9),
    "faster": (3.1, 4, 5),
    "as before": (0.5, 1, 1),
    "cost": (3.5, 4, 5),
    "first": (7, 8, 9),
}


def write(path: Path, rows: Mapping[str, tuple[float, float, float]]) -> Path:
    lines = ["a line of the log", json.dumps({"name": "without a ratio"})]
    for name, (least, median, most) in rows.items():
        row = {"name": name, "ratio": {"min": least, "median": median, "max": most}}
        lines.append(json.dumps(row | ({"better": "less"} if name == "cost" else {})))
    path.write_text("\n".join(lines) + "\n")
    return path


def compare(old: Path, new: Path) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, SCRIPT, old, new], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


def test_a_row_regressed_if_its_best_ratio_is_below_the_worst_before(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old.jsonl", OLD), write(tmp_path / "new.jsonl", NEW)
    assert compare(old, new) == (
        1,
        [
            "slower: regressed: 2.00 before, 0.60 now (× 0.30)",
            "faster: improved: 2.00 before, 4.00 now (× 2.00)",
            "as before: within the spread: 2.00 before, 1.00 now (× 0.50)",
            "cost: regressed: 2.00 before, 4.00 now (× 2.00)",
            "gone: not measured this time",
            "first: new: 8.00",
        ],
    )
    assert compare(old, old)[0] == 0
