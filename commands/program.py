"""The program that commands are added to, and the parts that several of them share."""

from collections.abc import Iterable
from typing import Annotated

import typer

from ..errors import InputError
from ..runtime.flags import Program
from ..runtime.help import GENERAL, ReadableGroup
from ..runtime.text import printable

STAGES, STORES, LISTS = "Stages", "Stores and runs", "Lists"

app = typer.Typer(
    cls=ReadableGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="probe COMMAND --help shows the options of a command, with examples.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
program = Program(app)

Store = Annotated[str, typer.Argument(metavar="STORE", help="Made by probe extract.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=GENERAL)]


def check_text(json: bool) -> None:
    """Refuse JSON of a dry run.

    Raises:
        InputError: both were asked for.
    """
    if json:
        raise InputError("a dry run is text for people, and --json was given too; leave one of them out")


def print_lines(lines: Iterable[str]) -> None:
    """Print lines that may hold foreign text."""
    for line in lines:
        print(printable(line))
