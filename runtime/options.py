"""Options: fields of settings, each described once, at its declaration.

A field's annotation holds its type and an `Option`; the dataclass gives its default. `flags.py` makes the flag and its
help from these, `config_file.py` the key of a YAML file, and `values.py` reads values.

Two types take other forms of their value too, such as `lr=0.1` for `lr=[0.1]`: `Several[T]` holds a list, `Joined` a
text of values joined by commas.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

DATA, BACKBONE, GRID, TRAINING, MACHINE, OUTPUT = "Data", "Backbone", "Grid", "Training", "Machine", "Output"
"""Panels of the help."""

PLACEHOLDERS = {bool: "", int: "N", float: "NUMBER", str: "NAME", dict: "KEY=VALUE,…"}

if TYPE_CHECKING:
    T = TypeVar("T")
    Held = TypeVar("Held")

    class Array(Protocol):
        """An array of numpy or torch."""

        def tolist(self) -> Any:
            """Return the values as numbers of Python."""

    class Read(Generic[Held]):
        """A field that holds `Held`. Type checkers take the type of the constructor's argument from `__set__`."""

        def __get__(self, settings: object, owner: object) -> Held: ...
        def __set__(self, settings: object, value: float | str | Sequence[float | str] | Array) -> None: ...

    Several = Read[list[T]]
    Joined = Read[str]
else:
    Several, Joined = list, str


def several(*values: Any) -> Callable[[], Any]:
    """Return a maker of the default of a field of `Several`."""
    return lambda: list(values)


ALL: Any = "all"
"""Default of a field of `Joined`."""


def cut_at_commas(text: str) -> list[str]:
    """Cut "a,b" into "a" and "b"."""
    return text.split(",")


@dataclass(frozen=True)
class Option:
    """The part of a field's annotation beside its type.

    Attributes:
        help: the help text, in whole sentences.
        panel: of the help.
        short: flag of one letter, such as "-o".
        also: another accepted name.
        metavar: placeholder of a value; by default made from the type.
        default: the default in words, if its value says too little.
        least: smallest number.
        most: largest number.
        joined: whether several values become one text, joined by commas.
        cut: splits a text into the texts of single values, for a list.
    """

    help: str
    panel: str
    short: str | None = None
    also: str | None = None
    metavar: str | None = None
    default: str | None = None
    least: float | None = None
    most: float | None = None
    joined: bool = False
    cut: Callable[[str], list[str]] = cut_at_commas


@dataclass(frozen=True)
class Field:
    """A field of settings, with the content of its annotation.

    Attributes:
        name: of the field.
        option: from its annotation.
        type: of its value, or of each value of a list: bool, int, float, str or dict.
        choices: the allowed texts; any if empty.
        is_list: whether it holds a list.
        is_path: whether it may hold a Path.
        is_optional: whether it may be None.
        is_open: whether Python may give an object of any other type.
        value: the default, or MISSING.
    """

    name: str
    option: Option
    type: type[Any]
    choices: tuple[str, ...]
    is_list: bool
    is_path: bool
    is_optional: bool
    is_open: bool
    value: Any

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.value is MISSING

    @property
    def several(self) -> bool:
        """Whether it takes several values."""
        return self.is_list or self.option.joined or self.type is dict

    @property
    def names(self) -> list[str]:
        """The name, and the other accepted name if there is one."""
        return [self.name, self.option.also] if self.option.also else [self.name]

    @property
    def flag(self) -> str:
        """The long flag, such as "--batch-size"."""
        return flag_of(self.name)

    @property
    def flags(self) -> list[str]:
        """Every flag: the short one, the long one, and the other name's."""
        return ([self.option.short] if self.option.short else []) + [flag_of(name) for name in self.names]

    @property
    def metavar(self) -> str:
        """Placeholder of the value; empty for a switch."""
        return self.option.metavar or PLACEHOLDERS[self.type] + (",…" if self.is_list else "")

    @property
    def default(self) -> str | None:
        """The default in words; None if there is no default or it needs no words."""
        says_nothing = self.required or self.value is None or self.value is False or self.value in ([], {})
        if self.option.default or says_nothing:
            return self.option.default
        values = self.value if isinstance(self.value, list) else [self.value]
        return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)

    @property
    def text(self) -> str:
        """The help text, with the choices if there are any."""
        return self.option.help + (f" One of {', '.join(self.choices)}." if self.choices else "")


def flag_of(name: str) -> str:
    """Return the flag of a field's name."""
    return "--" + name.replace("_", "-")


def fields_of(settings: type[Any]) -> dict[str, Field]:
    """Return the fields of a dataclass whose annotations hold an `Option`, by name."""
    found, hints = {}, get_type_hints(settings, include_extras=True)
    for field in fields(settings):
        hint, option = get_args(hints[field.name])
        alternatives = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        holder, inner = get_origin(alternatives[0]), alternatives[0]
        if holder is list:
            (inner,) = get_args(inner)
        is_choice = get_origin(inner) is Literal
        found[field.name] = Field(
            field.name,
            option,
            type=dict if holder is dict else str if is_choice else inner,
            choices=get_args(inner) if is_choice else (),
            is_list=holder is list,
            is_path=Path in alternatives,
            is_optional=NoneType in alternatives,
            is_open=Any in alternatives,
            value=field.default if field.default_factory is MISSING else field.default_factory(),
        )
    return found


def flags_of(settings: type[Any], values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the flags that give values to settings, and leave out those with their default.

    Lists are written even if they are the default, which may follow from others.
    """
    for name, field in fields_of(settings).items():
        value = values.get(name)
        if value is None or value in ([], {}) or (not field.is_list and value == field.value):
            continue
        parts = [f"{key}={each}" for key, each in value.items()] if isinstance(value, dict) else value
        yield field.flag
        if field.type is not bool:
            yield ",".join(map(str, parts)) if isinstance(parts, list) else str(value)
