"""Every command line that the package shows is one that it reads: in README, docs, examples and help."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tokenprobe.commands import app, program
from tokenprobe.runtime.flags import Call

from .shown import PAGES, lines_of_help, lines_of_pages

SHOWN = [each[:2] for each in (*lines_of_pages(), *lines_of_help()) if each.text.startswith("probe ")]


def parse(line: str) -> Call:
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


def test_a_group_without_a_command_runs_its_default() -> None:
    for line, name in (
        ("heads", "show"),
        ("heads ep", "show"),
        ("heads --json", "show"),
        ("heads list runs/a", "list"),
    ):
        assert parse(f"probe {line}").command.name == f"heads {name}"
    assert parse("probe heads show list").arguments()["name"] == "list"


def test_pages_show_commands() -> None:
    assert {parse(line).command.name for _, line in SHOWN} == set(program.commands)


def test_a_wrong_line_would_be_seen() -> None:
    with pytest.raises(ValueError, match="no such option: --layer"):
        parse("probe fit a.zarr -o b --layer 3")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_within_sentences_are_flags(page: Path) -> None:
    """Of `probe fit --heads X` all flags are those of that command, and of `probe heads list RUN` too."""
    commands: Any = get_command(app)
    for name, rest in re.findall(r"`probe (\w+)([^`]*)`", page.read_text()):
        command = commands.commands[name]
        command = getattr(command, "commands", {}).get(" ".join(rest.split()[:1]), command)
        flags = {flag for each in command.params for flag in each.opts}
        for flag in re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", rest):
            assert flag in flags, f"{page.name}: probe {name} {flag}"
