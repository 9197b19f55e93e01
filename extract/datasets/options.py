"""Options of a data spec: "ARGUMENT?key=value&key=value"."""

import os
from collections.abc import Collection, Mapping

from ...errors import InputError, unknown_name


def split_options(source: str, argument: str, known: Collection[str]) -> tuple[str, dict[str, str]]:
    """Cut an argument into the part before the "?" and its options.

    Args:
        source: name of the data source, for the error.
        argument: the text after "SOURCE:" in a spec.
        known: keys of all options.

    Raises:
        InputError: a part is not KEY=VALUE, or a key is unknown or given twice.
    """
    name, _, query = argument.partition("?")
    options = {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if not value:
            raise InputError(f"{source}:{argument}: expected KEY=VALUE after '?', found {part!r}")
        if key not in known:
            raise unknown_name(f"option of {source}:", key, known)
        if key in options:
            raise InputError(f"{source}:{argument}: option {key} is given twice; leave out one of them")
        options[key] = value
    return name, options


def join_options(name: str, options: Mapping[str, str]) -> str:
    """Return the argument that `split_options` cuts into this name and these options."""
    return name + "".join(f"{'&' if i else '?'}{key}={value}" for i, (key, value) in enumerate(options.items()))


def absolute(path: str) -> str:
    """Return an absolute path, with "~" expanded."""
    return os.path.abspath(os.path.expanduser(path))
