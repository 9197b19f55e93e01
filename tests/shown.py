"""All examples that README, docs, examples and help show: command lines, and statements of Python.

An example that cannot run here carries a visible mark: a comment that begins with "downloads" or "needs", at its end,
or on a line of its own above it in the same block. `test_examples.py` runs all others. Batch scripts for Slurm are no
examples: `test_scale_page.py` checks them.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tokenprobe.commands import program

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").glob("*.py"))]
PROGRAMS = ("probe", "make", "python", "pip")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"(?<!\S)# (downloads|needs) .+")
TEMPLATES = "## Adding one"
"""Below this title of docs/heads.md, Python is a template for a pooling. `probe/heads/test_registry.py` runs it."""


class Shown(NamedTuple):
    """One example, the place that shows it, and whether it is marked as one that cannot run here."""

    place: str
    text: str
    marked: bool


def _join_lines(text: str) -> str:
    return re.sub(r"\\\n\s*", "", text)


def _lines_of(place: str, block: str) -> Iterator[Shown]:
    """Yield the command lines of a block. A mark on a line of its own holds for the rest of the block."""
    all_marked = False
    for line in map(str.strip, _join_lines(block).splitlines()):
        all_marked |= line.startswith("#") and MARK.match(line) is not None
        if line.split(" ")[0] in PROGRAMS:
            yield Shown(place, line, all_marked or MARK.search(line) is not None)


def lines_of_pages() -> Iterator[Shown]:
    """Yield the command lines in the code blocks of pages, and in the docstrings of examples."""
    for page in PAGES:
        text = page.read_text()
        blocks = [block for _, block in FENCE.findall(text)] if page.suffix == ".md" else [text]
        blocks = [block for block in blocks if "#SBATCH" not in block]
        for block in blocks:
            yield from _lines_of(page.name, block)


def lines_of_help() -> Iterator[Shown]:
    """Yield the command lines in the help of every command."""
    for command in program.commands.values():
        yield from _lines_of(f"probe {command.name} --help", command.examples)


def first_shown(*examples: Shown) -> dict[str, Shown]:
    """Return each example by its text, at the first place that shows it, in order."""
    found: dict[str, Shown] = {}
    for each in examples:
        found.setdefault(each.text, each)
    return found


def python_blocks() -> Iterator[tuple[str, list[Shown]]]:
    """Yield each block of Python in a page, as its statements."""
    for page in PAGES:
        if page.suffix == ".md":
            for language, block in FENCE.findall(page.read_text().partition(TEMPLATES)[0]):
                if language == "python":
                    yield page.name, list(_statements(page.name, block))


def _statements(place: str, block: str) -> Iterator[Shown]:
    lines = block.splitlines()
    for node in ast.parse(block).body:
        text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
        yield Shown(place, text, MARK.search(text) is not None)
