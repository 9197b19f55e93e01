"""Conversion of values, as users write them in a shell, a YAML file or Python, to the type of a field."""

import ast
import re
from collections.abc import Callable, Mapping
from math import isfinite
from os import PathLike, fspath
from typing import Any

from ..errors import InputError, unknown_name
from .options import Field

PLAIN = (str, int, float, list, tuple, dict, PathLike, type(None))
"""Types of values in a shell or a YAML file, and paths."""
SWITCH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def read_value(field: Field, value: Any, name: str | None = None) -> Any:
    """Convert a value to the type of a field.

    Args:
        field: the field.
        value: a single value, several in a list or tuple, or text; also from numpy and torch.
        name: of the field as the user wrote it, for errors.

    Raises:
        InputError: the value is wrong; the message names field, value and expected type.
    """
    name = name or field.name
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None and field.is_optional:
        return None
    if field.is_open and not isinstance(value, PLAIN):
        return value
    if field.type is dict:
        return _read_mapping(value, name)
    values = value if isinstance(value, list | tuple | range) else [value]
    if field.is_list:
        return [_read_one(field, part, name) for part in _cut(field, values)]
    if field.option.joined and values:
        return ",".join(_read_text(part, name) for part in values)
    return _read_one(field, value, name)


def read_pairs(text: str) -> dict[str, Any]:
    """Read "img_size=32,patch_size=4". Each value is a Python literal if possible, else text.

    Raises:
        InputError: a part is not KEY=VALUE.
    """
    return _read_mapping(text, "value")


def read_literal(text: str) -> Any:
    """Read a Python literal; any other text stays text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _cut(field: Field, values: Any) -> list[Any]:
    """Split texts into the texts of single values."""
    single: list[Any] = []
    for value in values:
        single += [part.strip() for part in field.option.cut(value)] if isinstance(value, str) else [value]
    return single


def _read_one(field: Field, value: Any, name: str) -> Any:
    read = READERS[field.type](value, name)
    if isinstance(read, PathLike) and not field.is_path:
        read = fspath(read)
    if field.choices and read not in field.choices:
        raise unknown_name(name, read, field.choices)
    if field.option.least is not None and read < field.option.least:
        raise _wrong(name, read, f"at least {field.option.least}")
    if field.option.most is not None and read > field.option.most:
        raise _wrong(name, read, f"at most {field.option.most}")
    return read


def _read_switch(value: Any, name: str) -> bool:
    read = SWITCH.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(read, bool):
        raise _wrong(name, value, "true or false")
    return read


def _read_whole(value: Any, name: str) -> int:
    try:
        if isinstance(value, str | int) and not isinstance(value, bool):
            return int(value)
    except ValueError:
        pass
    raise _wrong(name, value, "a whole number")


def _read_number(value: Any, name: str) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        number = None
    if number is None:
        raise _wrong(name, value, "a number")
    if not isfinite(number):
        raise _wrong(name, value, "a finite number")
    return number


def _read_text(value: Any, name: str) -> Any:
    if isinstance(value, PathLike):
        return value
    text = str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    if not text or "\0" in text:
        raise _wrong(name, value, "text")
    return text


def _read_mapping(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(part) for key, part in value.items()}
    pairs = {}
    for text in value if isinstance(value, list | tuple) else [value]:
        for part in re.split(r",(?=[A-Za-z_]\w*=)", text) if isinstance(text, str) else [text]:
            key, equals, literal = part.partition("=") if isinstance(part, str) else ("", "", "")
            if not key or not equals:
                raise _wrong(name, part, "KEY=VALUE")
            pairs[key] = read_literal(literal)
    return pairs


def _plain(value: Any) -> Any:
    """Turn values of numpy and torch into Python's, and paths into text, in lists and mappings too."""
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if type(value) is dict:
        return {key: _plain(part) for key, part in value.items()}
    if hasattr(value, "tolist") and not isinstance(value, type):
        return value.tolist()
    return fspath(value) if isinstance(value, PathLike) else value


def _wrong(name: str, value: Any, expected: str) -> InputError:
    return InputError(f"{name} {value!r}: expected {expected}")


READERS: Mapping[type[Any], Callable[[Any, str], Any]] = {
    bool: _read_switch,
    int: _read_whole,
    float: _read_number,
    str: _read_text,
}
