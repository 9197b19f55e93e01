"""Config files: YAML whose keys are fields of settings.

Scalars stay text, like flags, and the fields convert them. YAML itself would read `off` as false, 010 as 8, 1e-1 as
text and 2024-01-01 as a date.
"""

from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, MissingError, unknown_name
from .options import fields_of
from .settings import Settings
from .values import read_literal, read_value

NULL = "tag:yaml.org,2002:null"
LITERALS = {"true": True, "false": False}


def read_config_file(settings: type[Settings], path: str) -> dict[str, Any]:
    """Read a YAML file into values by field.

    Args:
        settings: the class; its field names, with "_" or "-", are the keys.
        path: of the file.

    Raises:
        InputError: the file is not YAML, or a key or value is wrong.
        MissingError: there is no such file.
    """
    content = read_texts(path)
    try:
        return read_settings(settings, content)
    except InputError as error:
        raise InputError(f"config file {path!r}: {error}") from None


def read_texts(path: str) -> Any:
    """Read a YAML file into lists, dicts, None and text: numbers and switches stay text.

    Args:
        path: of the file.

    Raises:
        InputError: the file is not YAML, gives a key twice, or has an alias.
        MissingError: there is no such file.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise MissingError(f"no config file at {path!r}") from None
    try:
        return _plain(yaml.compose(data, Loader=yaml.SafeLoader), set())
    except yaml.YAMLError as error:
        raise InputError(f"config file {path!r} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise InputError(f"config file {path!r}: lists or keys are nested too deeply") from None
    except InputError as error:
        raise InputError(f"config file {path!r}: {error}") from None


def read_settings(settings: type[Settings], content: Any) -> dict[str, Any]:
    """Convert keys and values from `read_texts` to values by field.

    Args:
        settings: the class; its field names, with "_" or "-", are the keys.
        content: a dict. Keys in `ignored_keys` are left out.

    Raises:
        InputError: it is no dict, or a key or value is wrong.
    """
    if not isinstance(content, dict):
        found = "nothing" if content is None else "a list" if isinstance(content, list) else "text"
        raise InputError(f"expected keys and values, found {found}")
    fields = fields_of(settings)
    field_of = {name: field for field in fields.values() for name in field.names}
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name in settings.ignored_keys:
            continue
        if name not in field_of:
            raise unknown_name("key", key, fields)
        field = field_of[name]
        if field.name in values:
            raise InputError(f"{' or '.join(field.names)} is given twice")
        values[field.name] = read_value(field, _literals(value) if field.type is dict else value, key)
    return values


def _plain(node: yaml.Node | None, seen: set[int]) -> Any:
    """Turn a node into None, text, lists and dicts. Aliases are refused, because they can make a small file huge."""
    if node is None:
        return None
    if id(node) in seen:
        raise InputError(f"line {node.start_mark.line + 1} is repeated by an alias (*name); write its value out")
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise InputError(f"line {key.start_mark.line + 1}: a key must be text")
            if key.value in mapping:
                raise InputError(f"line {key.start_mark.line + 1}: {key.value!r} is given twice")
            mapping[key.value] = _plain(value, seen)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, seen) for item in node.value]
    return None if node.tag == NULL else node.value


def _literals(value: Any) -> Any:
    """Convert texts in a mapping: Python literals as in a KEY=VALUE flag, and YAML's true and false."""
    if isinstance(value, dict):
        return {key: _literals(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literals(item) for item in value]
    return LITERALS.get(value, read_literal(value)) if isinstance(value, str) else value
