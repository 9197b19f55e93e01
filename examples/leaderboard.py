"""Run a published leaderboard row by row, and write ours − published.

    python examples/leaderboard.py examples/imagenet.yaml -o board --rows mae-b dino-b
    python examples/leaderboard.py examples/imagenet.yaml --page docs/reproduce-imagenet.md

The first form extracts and fits each row of the list. After every row it writes leaderboard.md and leaderboard.csv into
the output folder. Stop it at any time and give the same command again: it skips finished rows and continues an
unfinished one. If a row fails, the table says why, and the others go on. The store of a finished row may be deleted.
The second form writes the list into the documentation.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from leaderboard_list import Figure, Row, read_board
from leaderboard_page import write_page

from tokenprobe import show_progress
from tokenprobe.errors import InputError, TokenprobeError, unknown_name
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.probe import FitConfig, fit
from tokenprobe.probe.run.results import RESULTS, Run
from tokenprobe.store.durable import write_durably

HEADER = (
    "| row | probe | head | source | published | ours | ours − published | note |\n|---|---|---|---|--:|--:|--:|---|\n"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("list", help="YAML file with the rows")
    parser.add_argument("-o", "--out", type=Path, help="folder for stores, runs and the table")
    parser.add_argument("--rows", nargs="+", help="names of the rows to run; all by default")
    parser.add_argument("--page", type=Path, help="page to write the list into, instead of running it")
    args = parser.parse_args()
    try:
        board = read_board(args.list)
        rows = choose(board.rows, args.rows)
    except TokenprobeError as error:
        parser.error(str(error))
    if args.page:
        if not board.n_images:
            parser.error(f"{args.list} has no n_images; the page needs them for the sizes of stores")
        write_page(board, args.page)
        return 0
    if not args.out:
        parser.error("give --out a folder, or --page a page")
    show_progress()
    return run_rows(rows, board.rows, args.out)


def choose(rows: Sequence[Row], names: Sequence[str] | None) -> list[Row]:
    """Return the rows with some names, in the order of the list.

    Raises:
        InputError: no row has one of the names.
    """
    known = [row.name for row in rows]
    for name in names or []:
        if name not in known:
            raise unknown_name("row", name, known)
    return [row for row in rows if names is None or row.name in names]


def run_rows(rows: Sequence[Row], listed: Sequence[Row], out: Path) -> int:
    """Run rows that are not finished, and write the table after each. Return the number of rows that failed.

    Args:
        rows: the rows to run.
        listed: all rows, for the table.
        out: folder of stores and runs.
    """
    failed: dict[str, str] = {}
    for row in rows:
        try:
            if not row.reason and not is_finished(row, out):
                run_row(row, out)
        except (TokenprobeError, OSError, RuntimeError, MemoryError) as error:  # of files, of the device
            failed[row.name] = " ".join(str(error).split()) or type(error).__name__
            print(f"{row.name}: {error}", file=sys.stderr)
        write_tables(listed, out, failed)
    print((out / "leaderboard.md").read_text())
    return len(failed)


def run_row(row: Row, out: Path) -> None:
    """Extract and fit a row. Stores and runs continue by themselves. A mark is written once both are complete.

    Raises:
        InputError: an earlier command began the row with other settings. Its cells would count as the row's.
    """
    extraction, fitting = row.settings(out)
    began = out / "runs" / f"{row.name}.began.json"
    made = [path for path in (extraction["out"], fitting["out"]) if Path(path).exists()]
    if made and began.exists() and began.read_text() != mark_of(row):
        raise InputError(
            f"row {row.name!r} was begun with other settings; delete {' and '.join(made)}, or give the row another name"
        )
    began.parent.mkdir(parents=True, exist_ok=True)
    write_durably(began, mark_of(row).encode())
    extract(ExtractConfig(**extraction))
    fit(extraction["out"], FitConfig(**fitting))
    for figure in row.figures:
        measured(row, figure, out)
    write_durably(out / "runs" / f"{row.name}.json", mark_of(row).encode())


def is_finished(row: Row, out: Path) -> bool:
    """Return whether a row has run to its end with its present settings."""
    mark = out / "runs" / f"{row.name}.json"
    return (out / "runs" / row.name / RESULTS).exists() and mark.exists() and mark.read_text() == mark_of(row)


def mark_of(row: Row) -> str:
    """Return the settings of a row, as text."""
    return json.dumps({"extract": row.extract, "fit": row.fit}, indent=1, sort_keys=True, default=str)


def write_tables(rows: Sequence[Row], out: Path, failed: Mapping[str, str]) -> None:
    """Write ours − published as CSV and as Markdown, one line per row, figure and source.

    Args:
        rows: all rows of the list.
        out: folder of stores and runs.
        failed: messages of rows that could not be run, by name.
    """
    lines = [line for row in rows for figure in row.figures for line in compare(row, figure, out, failed)]
    out.mkdir(parents=True, exist_ok=True)
    write_durably(out / "leaderboard.csv", pd.DataFrame(lines).to_csv(index=False).encode())
    write_durably(out / "leaderboard.md", (HEADER + "".join(map(markdown, lines))).encode())


def compare(row: Row, figure: Figure, out: Path, failed: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield ours − published in percent for each source of a figure. `ours` is the mean over seeds."""
    why, ours = row.reason or figure.reason, pd.Series(dtype=float)
    if not why and is_finished(row, out):
        ours = measured(row, figure, out)
        why = "" if len(ours) else "every cell diverged"
    elif not why:
        why = failed.get(row.name, "not run yet")
    for source, published in figure.published.items():
        yield {
            "name": row.name,
            "row": row.title,
            "probe": figure.probe,
            "head": figure.head.label if figure.head else "",
            "source": source,
            "published": published,
            "ours": ours.mean(),
            "std": ours.std(),
            "n_seeds": len(ours),
            "difference": ours.mean() - float(published),
            "note": why,
        }


def measured(row: Row, figure: Figure, out: Path) -> pd.Series:
    """Return top-1 in percent of a figure's head, one value per seed; none if it has no head or every cell diverged.

    Raises:
        InputError: the run has several layers or numbers of shots, and so several figures.
    """
    results = Run(out / "runs" / row.name).results
    head, config = (figure.head.name, figure.head.config) if figure.head else ("", "")
    cells = results[results["selected"] & results["head"].eq(head) & results["head_config"].eq(config)]
    if len(cells[["layer", "shots"]].drop_duplicates()) > 1:
        raise InputError(f"row {row.name!r} has several layers or shots; give each a row, because a figure has one")
    return 100 * cells["test_top1"]


def markdown(line: Mapping[str, Any]) -> str:
    """Return a line of the comparison as a row of a Markdown table."""
    head = f"`{line['head']}`" if line["head"] else "–"
    spread = f" ± {line['std']:.2f}" if line["n_seeds"] > 1 else ""
    found = f"{line['ours']:.2f}{spread} | {line['difference']:+.2f}" if line["n_seeds"] else "– | –"
    cells = [line["row"], line["probe"], head, line["source"], str(line["published"]), found.replace("-", "−")]
    note = str(line["note"]).replace("|", r"\|")
    return f"| {' | '.join(cells)} | {note} |\n"


if __name__ == "__main__":
    sys.exit(main())
