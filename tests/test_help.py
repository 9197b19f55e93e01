"""Help as a user sees it, in a process of its own: on terminals of two widths, without docstrings, and quickly."""

import os
import subprocess
import sys

import pytest

import tokenprobe
from tokenprobe.commands import program
from tokenprobe.runtime.flags import Command

COMMANDS = program.commands.values()


def probe(*argv: str, python: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, "-m", "tokenprobe", *argv]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)


def words(text: str) -> list[str]:
    return text.replace("│", " ").split()


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_nothing_is_cut_from_the_help(command: Command, columns: int) -> None:
    shown = probe(*command.name.split(), "--help", COLUMNS=str(columns), NO_COLOR="1").stdout
    for field in command.fields.values():
        for word in [*field.flags, *field.text.split(), *(field.default or "").split()]:
            assert word in shown.replace("\n", " "), f"{field.name}: {word}"
    for line in command.examples.splitlines():
        assert f"   {line}" in [each.rstrip() for each in shown.splitlines()]
    assert max(map(len, shown.splitlines())) <= columns


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_texts_have_no_apostrophe(command: Command) -> None:
    """zsh loses it from the completions that typer writes."""
    texts = [field.text + (field.default or "") for field in command.fields.values()]
    assert not [text for text in [*texts, command.summary] if "'" in text]


def test_help_in_colour_has_the_same_words() -> None:
    plain = probe("fit", "--help", COLUMNS="80", NO_COLOR="1", TERM="dumb").stdout
    coloured = probe("fit", "--help", COLUMNS="80", FORCE_COLOR="1", TERM="xterm-256color").stdout
    assert "\x1b[" in coloured and "\x1b[" not in plain
    from rich.text import Text

    assert words(Text.from_ansi(coloured).plain) == words(plain)


@pytest.mark.parametrize("argv", [["--help"], ["fit", "--help"], ["extract", "--help"], ["--version"]])
def test_help_needs_no_docstrings(argv: list[str]) -> None:
    assert probe(*argv, python=("-OO",)).stdout == probe(*argv).stdout != ""


def test_the_program_without_arguments_shows_its_help() -> None:
    bare = probe()
    assert (bare.returncode, bare.stderr) == (0, "")
    assert bare.stdout == probe("--help").stdout
    for command in COMMANDS:
        assert f"│ {command.group or command.name} " in bare.stdout


def test_a_reader_of_help_that_has_read_enough_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "tokenprobe", "fit", "--help"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_help_that_cannot_be_written_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "tokenprobe", "fit", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "probe: [Errno 28] No space left on device\n")


def test_the_version_is_shown() -> None:
    assert probe("--version").stdout == f"tokenprobe {tokenprobe.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fit"], "probe fit: STORE and --out are missing; see probe fit --help"),
        (["extract"], "probe extract: --data, --model and --out are missing; see probe extract --help"),
        (["heads", "push"], "probe heads push: FOLDER and ORG/NAME are missing; see probe heads push --help"),
        (["heads", "list", "--zz"], "probe heads list: no such option: --zz; see probe heads list --help"),
        (["heads", "ep", "--zz"], "probe heads: no such option: --zz; see probe heads --help"),
        (["info"], "probe info: STORE is missing; see probe info --help"),
        (["extrat"], "probe: no such command 'extrat'; did you mean 'extract', 'export'? See probe --help"),
    ],
)
def test_what_is_missing_is_said_in_one_line(argv: list[str], message: str) -> None:
    done = probe(*argv)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", message + "\n")
