"""Import of users' own code by the name MODULE:NAME."""

import os
import re
import sys
from importlib import import_module
from typing import Any

from ..errors import InputError, TokenprobeError

BY_PATH = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")
"""MODULE:NAME."""


def is_import_name(name: str) -> bool:
    """Return whether a name has the form MODULE:NAME."""
    return BY_PATH.fullmatch(name) is not None


def import_by_name(name: str, kind: str) -> Any:
    """Import an object by its name MODULE:NAME, also from the working folder. This runs the module's code.

    Args:
        name: of the object.
        kind: of the object, such as "head", for the message.

    Raises:
        InputError: the import fails.
    """
    module, _, part = name.partition(":")
    folder = os.getcwd()
    added = folder not in sys.path
    try:
        if added:
            sys.path.append(folder)  # at the end: nothing in it hides an installed package
        return getattr(import_module(module), part)
    except TokenprobeError:
        raise
    except Exception as error:  # code of any user
        raise InputError(
            f"{kind} {name!r}: importing {part!r} from {module!r} fails: {type(error).__name__}: {error}"
        ) from error
    finally:
        if added:
            sys.path.remove(folder)
