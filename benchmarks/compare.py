"""Compare the ratios of a benchmark with those of an earlier run, and say what regressed.

    python benchmarks/plain.py one_head knn --json new.jsonl
    python benchmarks/compare.py new.jsonl
    python benchmarks/compare.py new.jsonl benchmarks/results/2026-11-27-plain.jsonl

Without OLD, the results that were committed last for the same benchmark. Ratios are taken within one run, so they may
be compared between machines. A row regressed if even its best ratio is worse than the worst one before. The exit status
is 1 if a row regressed.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rows import RESULTS, Row, read_lines, read_rows  # the file beside this one


def verdicts(old: Mapping[str, Row], new: Mapping[str, Row]) -> Iterator[tuple[str, str]]:
    """Yield each name of either file, with a sentence about it."""
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in new:
            yield name, "not measured this time"
        elif name not in old:
            yield name, f"new: {new[name]['ratio']['median']:.2f}"
        else:
            before, after = old[name]["ratio"], new[name]["ratio"]
            worse, better = after["max"] < before["min"], after["min"] > before["max"]
            word = "regressed" if worse else "improved" if better else "within the spread"
            times = after["median"] / before["median"]
            yield name, f"{word}: {before['median']:.2f} before, {after['median']:.2f} now (× {times:.2f})"


def last_committed(benchmark: str) -> str:
    """Return the JSON lines of a benchmark's newest results in the last commit.

    Raises:
        SystemExit: there are none.
    """
    names = _git("ls-tree", "--name-only", "HEAD", ".").split("\n")
    found = sorted(name for name in names if name[11:] == f"{benchmark}.jsonl")  # YYYY-MM-DD-NAME.jsonl
    if not found:
        sys.exit(f"no results of {benchmark!r} are committed in {RESULTS}; name OLD")
    return _git("show", f"HEAD:./{found[-1]}")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=RESULTS, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"git {words[0]} failed in {RESULTS}; name OLD\n{done.stderr}")
    return done.stdout


def main() -> int:
    """Print one line per row; return 1 if a row regressed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("new", type=Path, help="JSON lines of this run")
    parser.add_argument("old", type=Path, nargs="?", help="JSON lines of the run to compare with")
    given = parser.parse_args()
    new = given.new.read_text()
    old = given.old.read_text() if given.old else last_committed(read_lines(new)[0]["benchmark"])
    found = list(verdicts(read_rows(old), read_rows(new)))
    for name, verdict in found:
        print(f"{name}: {verdict}")
    return int(any(verdict.startswith("regressed") for _, verdict in found))


if __name__ == "__main__":
    sys.exit(main())
