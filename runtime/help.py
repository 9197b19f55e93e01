"""typer's help in readable colours, without the names of Python types."""

import re
from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

GENERAL = "General"
"""The last panel of a command's help."""

THEME = {
    "STYLE_OPTION": "cyan",
    "STYLE_SWITCH": "green",
    "STYLE_TYPES": "",
    "STYLE_USAGE": "bold",
    "STYLE_COMMANDS_TABLE_FIRST_COLUMN": "cyan",
}
"""Styles of typer's help. Yellow is invisible on a light background, and so are the bright colours of bold text."""


class ReadableGroup(TyperGroup):
    """A program with readable help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        _make_readable(self.get_params(ctx))
        super().format_help(ctx, formatter)


def group_class(default: str) -> type[ReadableGroup]:
    """Return a class of groups that run the command `default` if none of their commands is named."""

    class Group(ReadableGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            """Put the name of the default command first if there is no name of a command."""
            completes = not args and ctx.resilient_parsing
            if not completes and (not args or args[0] not in {*self.commands, *ctx.help_option_names}):
                args = [default, *args]
            return super().parse_args(ctx, args)

    return Group


class ReadableCommand(TyperCommand):
    """A command with readable help, which ends with `--help`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        _make_readable(self.get_params(ctx))
        super().format_help(ctx, formatter)

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option `--help`, in the last panel."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = GENERAL
        return option


def _make_readable(parameters: Sequence[Any]) -> None:
    """Set the styles, and remove the names of Python types that typer writes beside switches and arguments."""
    from typer import rich_utils  # loads rich

    for name, style in THEME.items():
        setattr(rich_utils, name, style)
    for each in parameters:
        if each.param_type_name == "argument":
            each.display_type_rich = lambda ctx: ""
        elif each.is_flag:
            each.metavar = ""


def as_markup(text: str) -> str:
    """Keep brackets from being read as styles."""
    return re.sub(r"\[(?=[a-z#/@][^\[]*?\])", r"\\[", text)
