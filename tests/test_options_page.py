"""The tables of docs/options.md come from the options themselves: `python tests/test_options_page.py` writes them."""

from itertools import groupby
from pathlib import Path

from tokenprobe.commands import program
from tokenprobe.runtime.flags import Command
from tokenprobe.runtime.options import Field

PAGE = Path(__file__).parents[1] / "docs" / "options.md"


def page() -> str:
    """Return the page, with tables as the options are now."""
    sections = [section(command) for command in program.commands.values() if command.settings]
    return "\n".join([PAGE.read_text().partition("\n## probe ")[0], *sections])


def section(command: Command) -> str:
    assert command.settings
    title = f"## probe {command.name}\n\n{command.summary} In Python: `{command.settings.__name__}`.\n"
    panels = groupby(command.fields.values(), key=lambda field: field.option.panel)
    return "\n".join([title, *(table(panel, list(fields)) for panel, fields in panels)])


def table(panel: str, fields: list[Field]) -> str:
    rows = [f"| {row(field)} |" for field in fields]
    return "\n".join([f"| {panel} | default | |", "|---|---|---|", *rows, ""])


def row(field: Field) -> str:
    flags = ", ".join(f"`{flag}`" for flag in field.flags)
    default = "required" if field.required else field.default or ""
    return " | ".join(part.replace("|", "\\|") for part in (flags, default, field.text))


def test_the_page_is_what_the_options_say() -> None:
    assert PAGE.read_text() == page(), "write it anew: python tests/test_options_page.py"


if __name__ == "__main__":
    PAGE.write_text(page())
