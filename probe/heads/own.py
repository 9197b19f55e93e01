"""Poolings that users write, without a change of this package.

Three ways give one a name:

* `register`, called by their code before `fit`;
* an entry point of the group `tokenprobe.poolings` in their installed package, by the entry point's name;
* MODULE:CLASS as a name, which imports the module.
"""

from importlib.metadata import entry_points
from typing import Any

from ...errors import InputError
from ...runtime.imports import import_by_name, is_import_name
from .pooling import Pooling, PoolingSettings

GROUP = "tokenprobe.poolings"
NEEDS = ("title", "summary", "source")
"""Texts that tables, figures and `probe heads` show."""


def names_code(name: str) -> bool:
    """Return whether a pooling's name is that of a module to import, MODULE:CLASS."""
    return is_import_name(name)


def imported(name: str) -> type[Pooling]:
    """Import a pooling by its name MODULE:CLASS, also from the working folder. This runs the module's code.

    Raises:
        InputError: the import fails, or gives no pooling.
    """
    return checked(import_by_name(name, "head"), name)


def installed(name: str) -> type[Pooling] | None:
    """Return the pooling that an installed package offers under a name, or None.

    Raises:
        InputError: its import fails, or gives no pooling.
    """
    for point in entry_points(group=GROUP, name=name):
        try:
            return checked(point.load(), name)
        except InputError:
            raise
        except Exception as error:  # code of any package
            raise InputError(
                f"head {name!r}: {point.value!r} cannot be imported: {type(error).__name__}: {error}"
            ) from error
    return None


def installed_names() -> list[str]:
    """Return the names of the poolings that installed packages offer."""
    return sorted(entry_points(group=GROUP).names)


def checked(kind: Any, name: str) -> type[Pooling]:
    """Return a class if it is a pooling with all that other code reads, under a name.

    Raises:
        InputError: it is not; the message says what it lacks.
    """
    if not (isinstance(kind, type) and issubclass(kind, Pooling)):
        raise InputError(f"head {name!r} is {kind!r}, not a subclass of tokenprobe.probe.heads.Pooling")
    abstract = sorted(getattr(kind, "__abstractmethods__", ()))
    lacks = [*abstract, *(each for each in NEEDS if not isinstance(getattr(kind, each, None), str))]
    if lacks:
        raise InputError(f"head {name!r}: {kind.__name__} lacks {', '.join(lacks)}; see docs/your-own.md")
    if not isinstance(kind.settings, PoolingSettings):
        raise InputError(f"head {name!r}: {kind.__name__}.settings is not an instance of PoolingSettings")
    return kind
