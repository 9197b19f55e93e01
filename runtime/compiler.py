"""Shapes without torch's compiler.

torch's shape functions are Python code, marked so that `torch.compile` does not look into them. The first call of each
one imports `torch._dynamo`, only to set that mark. The import takes longer than finding all the shapes of a step, and
seconds on a busy machine. Nothing is compiled here, so a stand-in answers instead.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

NAME = "torch._dynamo"
MARK = "__dynamo_disable"
"""The attribute in which `torch._compile` keeps what `disable` returned for a function."""


@contextmanager
def without_compiler() -> Iterator[None]:
    """Find shapes in a `with` block without importing `torch._dynamo`. Afterwards torch is as before.

    Code that needs more of the compiler than the mark gets the real module.
    """
    if NAME in sys.modules:
        yield
        return
    stand_in = _StandIn()
    stand_in.install()
    try:
        yield
    finally:
        stand_in.remove()


class _StandIn(ModuleType):
    """Takes the place of `torch._dynamo`."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self._unmarked: list[Callable[..., Any]] = []

    def disable(self, function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
        """Return the function itself: no compiler looks into it."""
        self._unmarked.append(function)
        return function

    def __getattr__(self, name: str) -> Any:
        """Give way to the real module."""
        self.remove()
        return getattr(import_module(NAME), name)

    def install(self) -> None:
        """Let `import torch._dynamo` find this module."""
        sys.modules[NAME] = self
        vars(torch)["_dynamo"] = self

    def remove(self) -> None:
        """Let `import torch._dynamo` import, and let it mark the functions again."""
        if sys.modules.get(NAME) is self:
            del sys.modules[NAME], vars(torch)["_dynamo"]
        while self._unmarked:
            vars(self._unmarked.pop()).pop(MARK, None)
