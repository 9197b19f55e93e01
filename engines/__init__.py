"""Engines: they run units of work in one process or in many, on machines that people already operate.

An engine knows units and workers, and nothing of the two stages. All state is in files: an engine may lose a worker, or
end, at any moment, and the same command goes on. A new engine is a file here and an entry in `ENGINES`.
"""

import os
from collections.abc import Callable

from ..errors import InputError
from .contract import Engine as Engine

ENGINES: dict[str, str] = {"inline": "Inline", "torchrun": "Torchrun", "ray": "OnRay"}
"""The engines: the name of their file, and of the class in it. They are loaded when they are used."""


def engine_name(asked: str | None) -> str:
    """Return the engine asked for. By default it is torchrun in a process that torchrun started, else inline."""
    return asked or ("torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "inline")


def make_engine(asked: str | None, **options: object) -> Engine:
    """Make an engine.

    Args:
        asked: a key of `ENGINES`, or None for the default of `engine_name`.
        options: of the engine; only Ray has any.

    Raises:
        InputError: the engine cannot work here, or an option is given that is for another one.
    """
    from importlib import import_module

    name = engine_name(asked)
    for key, value in options.items():
        if value is not None and name != "ray":
            raise InputError(
                f"{key} {value!r} is for the engine ray, but the engine is {name}; give --engine ray, or leave "
                f"--{key.replace('_', '-')} out"
            )
    make: Callable[..., Engine] = getattr(import_module(f".{name}", __name__), ENGINES[name])
    return make(**{key: value for key, value in options.items() if name == "ray"})


def is_follower(asked: str | None) -> bool:
    """Whether this process works for another one, the leader, which shows all results. Needs no torch."""
    return engine_name(asked) == "torchrun" and os.environ.get("RANK", "0") != "0"
