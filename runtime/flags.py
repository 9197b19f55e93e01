"""Flags from the fields of a config dataclass: its documentation is their help, its defaults are theirs."""

import argparse
import ast
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from types import UnionType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

EXIT_INPUT = 2
"""Exit status for an input that is wrong."""
SHORT_FLAGS = {"model": "-m", "data": "-d", "out": "-o"}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and takes "-1,0" for a value."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._negative_number_matcher = re.compile(r"^-\d[\d,.-]*$")

    def error(self, message: str) -> NoReturn:
        """Exit with one line that says what is wrong."""
        self.exit(EXIT_INPUT, f"{self.prog}: {message}; see {self.prog} --help\n")


def add_fields(parser: argparse.ArgumentParser, config: type[Any], names: Mapping[str, str]) -> None:
    """Add a flag for every field. Absent flags stay absent, so that the dataclass alone holds the defaults.

    Args:
        parser: of the command.
        config: the dataclass.
        names: of fields whose flag is spelt otherwise.
    """
    texts, hints = _field_texts(config), get_type_hints(config)
    for field in fields(config):
        name = names.get(field.name, field.name)
        flags = [SHORT_FLAGS[name]] if name in SHORT_FLAGS else []
        required = field.default is MISSING and field.default_factory is MISSING
        parser.add_argument(
            *flags,
            f"--{name.replace('_', '-')}",
            dest=field.name,
            default=argparse.SUPPRESS,
            required=required,
            help=texts[field.name].replace("%", "%%") + _default_text(field),
            **_argument_kind(hints[field.name], name),
        )


def _argument_kind(hint: Any, name: str) -> dict[str, Any]:
    """Return what argparse must know to read a flag of a type."""
    if hint is bool:
        return {"action": "store_true"}
    if get_origin(hint) is list:
        read = _read_specs if name == "head" else _read_list(get_args(hint)[0])
        return {"action": "extend", "type": read, "metavar": name.upper()}
    if get_origin(hint) is dict:
        return {"action": _UpdateDict, "type": read_pairs, "metavar": "KEY=VALUE"}
    kinds = [kind for kind in get_args(hint) if kind in (int, float)] if get_origin(hint) is UnionType else [hint]
    return {"type": kinds[0] if kinds else str, "metavar": name.upper()}


def _read_list(kind: type[Any]) -> Callable[[str], list[Any]]:
    def read(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",")]

    read.__name__ = f"list of {kind.__name__}"
    return read


def _read_specs(text: str) -> list[str]:
    """Cut "ep:queries=8,d_out=2,linear" where a head begins: a part KEY=VALUE belongs to the one before it."""
    return re.split(r",(?![A-Za-z_]\w*=)", text)


def read_pairs(text: str) -> dict[str, Any]:
    """Read "img_size=32,patch_size=4": values are Python literals, or else text."""
    pairs = {}
    for part in re.split(r",(?=[A-Za-z_]\w*=)", text):
        key, equals, value = part.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {part!r}")
        try:
            pairs[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            pairs[key] = value
    return pairs


class _UpdateDict(argparse.Action):
    """Merges repeated KEY=VALUE flags."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, getattr(namespace, self.dest, {}) | values)


def _field_texts(config: type[Any]) -> dict[str, str]:
    """Return the documentation of each field, from the class's "Attributes:" section."""
    section = inspect.cleandoc(config.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).rstrip(".") for name, text in entries}


def _default_text(field: Any) -> str:
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    if default is MISSING or default is None or default is False or default in ([], {}):
        return ""
    return f" (default: {','.join(map(str, default)) if isinstance(default, list) else default})"


def given_fields(arguments: argparse.Namespace, config: type[Any]) -> dict[str, Any]:
    """Return the fields of a config whose flags were given."""
    return {field.name: getattr(arguments, field.name) for field in fields(config) if hasattr(arguments, field.name)}
