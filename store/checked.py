"""Values from a file, checked for type and range as they are read: JSON in, dataclasses out.

A type is a dataclass or is built from: str, int, float, bool, `list[X]`, `dict[str, X]`, `tuple[X, …]`, `X | None`,
`X | …` (JSON holds the first), `Any` (plain JSON of any shape), and `Annotated[X, Range(…)]`.
"""

import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, dataclass, fields, is_dataclass
from errno import EINVAL
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, NoReturn, Union, get_args, get_origin, get_type_hints

from ..errors import StoreError
from .objects import N_REQUESTS, ObjectPath, Place

MOST_LEVELS = 40
"""Most levels of nested lists and dicts: more than anybody writes, and few enough for recursive functions."""
MOST_SHOWN = 60


class UnfitError(StoreError):
    """A value has the wrong type or is out of range. The message names the value and shows it."""


@dataclass(frozen=True)
class Range:
    """The smallest and the largest allowed value of a number."""

    least: int
    most: int


Count = Annotated[int, Range(0, 2**40)]
"""A number of things; may be 0."""
Size = Annotated[int, Range(1, 2**40)]
"""A number of things; at least 1."""
Width = Annotated[int, Range(1, 2**24)]
"""A number of values along one axis."""


def read_file(path: Place) -> bytes:
    """Read a plain file; a device or a pipe in its place might never end.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it is not a plain file, or it cannot be read.
    """
    if isinstance(path, Path) and path.exists() and not path.is_file():
        raise OSError(EINVAL, "it is not a plain file", str(path))
    return path.read_bytes()


def read_all(places: Sequence[Place]) -> list[bytes | None]:
    """Read several small files or objects, objects side by side; None for a missing one."""
    if any(isinstance(place, ObjectPath) for place in places):
        with ThreadPoolExecutor(N_REQUESTS) as pool:
            return list(pool.map(_read_or_none, places))
    return [_read_or_none(place) for place in places]


def _read_or_none(place: Place) -> bytes | None:
    try:
        return read_file(place)
    except (FileNotFoundError, NotADirectoryError):
        return None


def parse(text: bytes | str) -> Any:
    """Read JSON. Infinite numbers and NaN are refused.

    Raises:
        UnfitError: the text is not JSON, or lists and dicts are nested too deeply.
    """
    try:
        return _decoder.decode(text if isinstance(text, str) else text.decode())
    except RecursionError:
        raise UnfitError("lists and dicts are nested too deeply") from None
    except ValueError as error:
        raise UnfitError(f"not JSON: {error}") from None


def is_json(value: Any) -> bool:
    """Whether a value can be written as JSON that `parse` reads."""
    try:
        json.dumps(value, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def read(kind: Any, value: Any, where: str) -> Any:
    """Return a value converted to a type, or refuse it.

    Args:
        kind: the type; see the top of this module.
        value: from JSON.
        where: its name, for the message.

    Raises:
        UnfitError: it is of another type, out of range, or incomplete.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _in_range(read(arguments[0], value, where), arguments[1], where)
    if is_dataclass(kind):
        return _dataclass(kind, value, where)
    if origin in (UnionType, Union):
        return None if value is None and NoneType in arguments else read(arguments[0], value, where)
    if origin is None:
        return SIMPLE[kind](value, where)
    return COMPOUND[origin](arguments, value, where)


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    given = _as(dict, value, where)
    types, needed = _fields(kind)
    prefix = f"{where}." if where else ""
    for name in sorted(needed - given.keys()):
        raise UnfitError(f"{prefix}{name} is missing")
    for name in given.keys() - types.keys():
        raise UnfitError(f"{prefix}{_key(name)} is not known here")
    return kind(**{name: read(types[name], inner, prefix + name) for name, inner in given.items()})


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], set[str]]:
    """Return the type of each field of a dataclass, and the names of those without a default."""
    needed = {each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING}
    return get_type_hints(kind, include_extras=True), needed


def _list(arguments: Any, value: Any, where: str) -> list[Any]:
    return [read(arguments[0], each, f"{where}[{i}]") for i, each in enumerate(_as(list, value, where))]


def _tuple(arguments: Any, value: Any, where: str) -> tuple[Any, ...]:
    given = _as(list, value, where)
    if len(given) != len(arguments):
        _refuse(value, where, f"{len(arguments)} values")
    return tuple(read(kind, each, f"{where}[{i}]") for i, (kind, each) in enumerate(zip(arguments, given, strict=True)))


def _dict(arguments: Any, value: Any, where: str) -> dict[str, Any]:
    given = _as(dict, value, where)
    return {_text(key, where): read(arguments[1], each, f"{where}.{_key(key)}") for key, each in given.items()}


def _text(value: Any, where: str) -> str:
    text: str = _as(str, value, where)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            _refuse(value, where, "text that can be written as UTF-8")
    return text


def _integer(value: Any, where: str) -> int:
    if type(value) is not int or abs(value) >= 2**64:
        _refuse(value, where, "a whole number")
    return value


def _number(value: Any, where: str) -> float:
    if type(value) not in (int, float) or abs(value) > 1e300 or not math.isfinite(value):
        _refuse(value, where, "a number")
    return value  # type: ignore[no-any-return]


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        _refuse(value, where, "true or false")
    return value


def _plain(value: Any, where: str, level: int = 0) -> Any:
    """Check numbers, texts and depth of JSON of any shape."""
    if level > MOST_LEVELS:
        raise UnfitError(f"{where[:MOST_SHOWN]} is nested too deeply")
    if isinstance(value, list | tuple):
        return [_plain(each, f"{where}[{i}]", level + 1) for i, each in enumerate(value)]
    if isinstance(value, dict):
        return {_text(key, where): _plain(each, f"{where}.{_key(key)}", level + 1) for key, each in value.items()}
    if value is None or isinstance(value, bool):
        return value
    return (_text if isinstance(value, str) else _integer if type(value) is int else _number)(value, where)


SIMPLE: dict[Any, Callable[[Any, str], Any]] = {
    str: _text,
    int: _integer,
    float: _number,
    bool: _flag,
    Any: _plain,
}
COMPOUND: dict[Any, Callable[[Any, Any, str], Any]] = {list: _list, tuple: _tuple, dict: _dict}


def _in_range(value: Any, limits: Range, where: str) -> Any:
    if not limits.least <= value <= limits.most:
        _refuse(value, where, f"{limits.least} to {limits.most}")
    return value


NAMES = {dict: "keys and values", list: "a list", str: "text"}


def _as(kind: Any, value: Any, where: str) -> Any:
    if kind is list and isinstance(value, tuple):
        return value
    if not isinstance(value, kind):
        _refuse(value, where, NAMES[kind])
    return value


def _refuse(value: Any, where: str, expected: str) -> NoReturn:
    raise UnfitError(f"{where or 'it'} is {_shown(value)}; expected {expected}")


def _key(name: Any) -> str:
    return name if isinstance(name, str) and name.isidentifier() and len(name) <= MOST_SHOWN else _shown(name)


def _shown(value: Any) -> str:
    """Show a value briefly: the beginning of a long text, the length of a list or dict."""
    if isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, str):
        return repr(value[:MOST_SHOWN]) + ("…" if len(value) > MOST_SHOWN else "")
    return repr(value) if len(repr(value)) <= MOST_SHOWN else repr(value)[:MOST_SHOWN] + "…"
