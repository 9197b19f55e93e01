"""What all benchmarks share: sides that take turns, rows with a ratio, flags, JSON lines and the table.

A row compares our cost of some work with another's: seconds, CPU seconds or bytes. The ratio is theirs / ours, taken
within one run, so that it may be compared between machines. Above 1, ours costs less.

    {"name": "write", "unit": "s", "ours": 1.2, "theirs": 0.9, "repeats": 5,
     "ratio": {"min": 0.7, "median": 0.75, "max": 0.8}}

A row that could not be measured has `not_run`, a sentence, instead of the numbers. The first line of a file has no
name: it describes the run, with benchmark, date, command, machine, load and versions.
"""

import argparse
import json
import os
import platform
import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

Call = Callable[[], Any]
Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "torchvision", "timm", "triton", "numpy", "zarr", "h5py", "safetensors", "scikit-learn")


def make_parser(about: str | None, repeats: int) -> argparse.ArgumentParser:
    """Return a parser with the flags that all benchmarks have."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, help="turns of each side")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for the rows, as JSON lines")
    return parser


def cpu_seconds() -> float:
    """Return the CPU seconds of this process, and of the processes that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def take_turns(
    calls: Mapping[str, Call],
    repeats: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = 1,
    before: Call = lambda: None,
) -> dict[str, list[float]]:
    """Return the seconds of each call in each turn. Turns spread the noise of a shared machine over all calls.

    Args:
        calls: by name.
        repeats: number of turns that count.
        clock: returns seconds.
        warm_up: number of turns before those that count.
        before: runs before each call, untimed.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-warm_up, repeats):
        for name, call in calls.items():
            before()
            start = clock()
            call()
            if turn >= 0:
                found[name].append(clock() - start)
    return found


def make_row(name: str, ours: Sequence[float], theirs: Sequence[float], unit: str = "s") -> Row:
    """Return a row from the costs of both sides, one value per turn.

    Args:
        name: of the work and of the other side.
        ours: our cost in each turn.
        theirs: the other side's cost in each turn.
        unit: "s", "CPU s" or "bytes".
    """
    ratios = [other / own for own, other in zip(ours, theirs, strict=True)]
    return {
        "name": name, "unit": unit, "ours": median(ours), "theirs": median(theirs), "repeats": len(ratios),
        "ratio": {"min": min(ratios), "median": median(ratios), "max": max(ratios)},
    }  # fmt: skip


def not_run(name: str, reason: str) -> Row:
    """Return the row of work that could not be measured."""
    return {"name": name, "not_run": reason}


def report(benchmark: str, found: Iterable[Row], file: Path | None) -> None:
    """Print each row once it is measured, then the table. Write the rows to a file, if there is one.

    Until all rows are measured, they are in FILE.partial. So after a failure FILE has an earlier run, or is not there.

    Args:
        benchmark: name of the script.
        found: the rows.
        file: for JSON lines.
    """
    partial = file and file.with_name(f"{file.name}.partial")
    lines: list[Row] = [describe_run(benchmark)]
    for row in found:
        lines.append(row)
        print(json.dumps(row), flush=True)
        if partial:
            write_lines(partial, lines)
    if file and partial and len(lines) > 1:
        partial.replace(file)
    print(f"\n{markdown(lines[1:])}")


def write_lines(file: Path, lines: Iterable[Row]) -> None:
    """Write JSON lines."""
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def describe_run(benchmark: str) -> Row:
    """Return the first line of a file: which benchmark ran, when, how, where, and with which versions."""
    script = Path(sys.argv[0])
    torch = sys.modules.get("torch")
    return {
        "benchmark": benchmark,
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", f"{script.parent.name}/{script.name}", *sys.argv[1:]]),
        "machine": machine(),
        "gpu": torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None,
        "load": [round(each, 2) for each in os.getloadavg()],
        "versions": {"Python": platform.python_version(), **{name: installed(name) for name in PACKAGES}},
    }


def machine() -> str:
    """Return the number of usable cores, the processor, and the memory."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    name = cpu[0].partition(": ")[2] if cpu else platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores, {name}, {gib:.0f} GiB"


def installed(package: str) -> str:
    """Return the version of a package, or "none"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def read_rows(text: str) -> dict[str, Row]:
    """Return the rows of a file that have a ratio, by name."""
    return {row["name"]: row for row in read_lines(text) if "ratio" in row}


def read_lines(text: str) -> list[Row]:
    """Return all JSON lines of a file."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def markdown(found: Sequence[Row]) -> str:
    """Return the rows as a table. A ratio below 1 is bold: ours costs more."""
    lines = ["| work, and the other side | ours | theirs | theirs / ours (least to most) |", "|---|--:|--:|--:|"]
    for row in found:
        if "ratio" in row:
            ratios = (row["ratio"][key] for key in ("min", "median", "max"))
            least, middle, most = (f"{each:.2f}" if each >= 0.1 else f"{each:.1g}" for each in ratios)
            ratio = middle if row["ratio"]["median"] >= 1 else f"**{middle}**"
            costs = " | ".join(amount(row[side], row["unit"]) for side in ("ours", "theirs"))
            lines.append(f"| {row['name']} | {costs} | {ratio}{f' ({least} to {most})' * (row['repeats'] > 1)} |")
        else:
            lines.append(f"| {row['name']} | | | not run: {row['not_run']} |")
    return "\n".join(lines)


def amount(value: float, unit: str) -> str:
    """Return a cost as text."""
    if unit == "bytes":
        return f"{value / 2**20:,.0f} MiB" if value >= 2**20 else f"{value / 2**10:,.0f} KiB"
    number, prefix = (1e3 * value, "m") if value < 1 else (value, "")
    return f"{number:,.0f} {unit[:-1]}{prefix}s" if number >= 100 else f"{number:.3g} {unit[:-1]}{prefix}s"
