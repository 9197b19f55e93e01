"""Compare the ratios of a benchmark with those of an earlier run, and say what regressed.

    python benchmarks/plain.py one_head knn --json new.jsonl
    python benchmarks/compare.py benchmarks/results/2026-11-27-plain.jsonl new.jsonl

Both files have one JSON object per line, with a `name` and a `ratio` of least, median and most. Ratios are taken
within one run, so they may be compared between machines. A row regressed if even its best ratio is worse than the
worst one before. More is better, unless the row says `"better": "less"`. The exit status is 1 if a row regressed.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Rows = Mapping[str, Mapping[str, Any]]


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows that have a ratio, by name."""
    lines = (json.loads(line) for line in path.read_text().splitlines() if line.startswith("{"))
    return {row["name"]: row for row in lines if "ratio" in row}


def verdicts(old: Rows, new: Rows) -> Iterator[tuple[str, str]]:
    """Yield each name of either file, with a sentence about it."""
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in new:
            yield name, "not measured this time"
        elif name not in old:
            yield name, f"new: {new[name]['ratio']['median']:.2f}"
        else:
            before, after = old[name]["ratio"], new[name]["ratio"]
            less = new[name].get("better", "more") == "less"
            worse = after["min"] > before["max"] if less else after["max"] < before["min"]
            better = after["max"] < before["min"] if less else after["min"] > before["max"]
            word = "regressed" if worse else "improved" if better else "within the spread"
            times = after["median"] / before["median"]
            yield name, f"{word}: {before['median']:.2f} before, {after['median']:.2f} now (× {times:.2f})"


def main() -> int:
    """Print one line per row; return 1 if a row regressed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="JSON lines of the run to compare with")
    parser.add_argument("new", type=Path, help="JSON lines of this run")
    given = parser.parse_args()
    found = list(verdicts(read_rows(given.old), read_rows(given.new)))
    for name, verdict in found:
        print(f"{name}: {verdict}")
    return int(any(verdict.startswith("regressed") for _, verdict in found))


if __name__ == "__main__":
    sys.exit(main())
