"""The tables of docs/benchmarks.md, from the JSON lines in benchmarks/results/: `python benchmarks/tables.py`.

The page has a place for each: what stands between `<!-- NAME -->` and `<!-- end -->` is replaced. NAME is a benchmark,
or a Markdown file in results/, whose first table is quoted.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from rows import RESULTS, Row, markdown, read_lines  # the file beside this one

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
PLACE = re.compile(r"(<!-- (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def newest(name: str, results: Path) -> tuple[list[Row], list[Row]]:
    """Return the rows of a benchmark, each from its newest run that measured it, and the runs that they are from.

    The rows are those that the newest run names: a row that a benchmark has lost is gone.
    """
    runs = [read_lines(file.read_text()) for file in sorted(results.glob(f"????-??-??-{name}.jsonl"))]
    if not runs:
        return [], []
    measured = {row["name"]: (row, run[0]) for run in runs for row in run[1:] if "ratio" in row}
    found = [measured.get(row["name"], (row, runs[-1][0])) for row in runs[-1][1:]]
    used = [run[0] for run in runs if any(about is run[0] for _, about in found)]
    return [row for row, _ in found], used


def about(run: Row) -> str:
    """Return a line about a run."""
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items() if version != "none")
    load = " ".join(f"{each:g}" for each in run["load"])
    device = f"{run['machine']}, {run['gpu']}" if run["gpu"] else run["machine"]
    return f"*{run['date']}, `{run['command']}`. {device}; load before the run {load}. {versions}.*"


def table(name: str, results: Path = RESULTS) -> str:
    """Return what belongs in the place of a name."""
    if name.endswith(".md"):
        lines = (results / name).read_text().splitlines()
        first = next(index for index, line in enumerate(lines) if line.startswith("|"))
        last = next((i for i in range(first, len(lines)) if not lines[i].startswith("|")), len(lines))
        return "\n".join(lines[first:last])
    found, runs = newest(name, results)
    return "\n\n".join([markdown(found), *map(about, runs)]) if runs else "*Not measured yet.*"


def filled(page: str, results: Path = RESULTS) -> str:
    """Return the page with all its tables made anew."""
    names: Mapping[str, str] = {name: table(name, results) for _, name, _ in PLACE.findall(page)}
    return PLACE.sub(lambda match: f"{match[1]}{names[match[2]]}\n{match[3]}", page)


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text()))


if __name__ == "__main__":
    main()
