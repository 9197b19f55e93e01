"""Every command line that the package shows is one that it reads: in README, docs, examples and help."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from tokenprobe.cli import app, program
from tokenprobe.runtime.flags import Call

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").glob("*.py"))]
PLACEHOLDERS = {"extract MODEL ": "extract -m NAME "}
"""In docs/backbones.md, MODEL stands for flags that its table has."""
ANNOUNCED = {"heads"}
"""Commands that pages name before they are there."""
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def join_lines(text: str) -> str:
    """Join lines that end with a backslash to the next."""
    return re.sub(r"\\\n\s*", "", text)


def lines_of_pages() -> Iterator[tuple[str, str]]:
    """Yield where a page shows a command line, and the line: those in code blocks, whole ones."""
    for page in PAGES:
        text = page.read_text()
        blocks = FENCE.findall(text) if page.suffix == ".md" else [text]
        for block in blocks:
            for line in join_lines(block).splitlines():
                if line.strip().startswith("probe "):
                    yield page.name, line.strip()


def lines_of_help() -> Iterator[tuple[str, str]]:
    for command in program.commands.values():
        for line in join_lines(command.examples).splitlines():
            yield f"probe {command.name} --help", line


SHOWN = [*lines_of_pages(), *lines_of_help()]


def parse(line: str) -> Call:
    for placeholder, flags in PLACEHOLDERS.items():
        line = line.replace(placeholder, flags)
    name, *argv = shlex.split(line, comments=True)
    assert name == "probe"
    call = program.parse(argv)
    assert isinstance(call, Call)
    return call


@pytest.mark.parametrize(("place", "line"), SHOWN, ids=lambda text: text[:60])
def test_a_command_line_that_is_shown_is_read(
    place: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sweep.yaml").write_text("out: runs/sweep\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(parse(line).arguments(), dict), place


def test_every_command_shows_an_example_of_itself() -> None:
    for command in program.commands.values():
        assert f"probe {command.name}" in command.examples


def test_pages_show_commands() -> None:
    assert {parse(line).command.name for _, line in lines_of_pages()} >= {"extract", "fit", "predict"}


def test_a_wrong_line_would_be_seen() -> None:
    with pytest.raises(ValueError, match="no such option: --layer"):
        parse("probe fit a.zarr -o b --layer 3")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_within_sentences_are_flags(page: Path) -> None:
    """Of `probe fit --heads X` all flags are those of that command."""
    for name, rest in re.findall(r"`probe (\w+)([^`]*)`", page.read_text()):
        if name in ANNOUNCED:
            continue
        flags = {flag for each in get_command(app).commands[name].params for flag in each.opts}
        for flag in re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", rest):
            assert flag in flags, f"{page.name}: probe {name} {flag}"
