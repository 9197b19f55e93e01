"""Shapes without torch's compiler.

torch's shape functions are Python code that the compiler uses too. They import `torch._dynamo`, only to mark themselves
for it, and sympy, only to ask whether a size is a symbol. These imports take longer than finding all the shapes of a
training step, and seconds on a busy machine. Nothing is compiled here, and every size is a number, so stand-ins answer.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import eq
from types import ModuleType
from typing import Any, TypeVar

import torch

T = TypeVar("T")
DYNAMO, SYMPY = "torch._dynamo", "sympy"
SHAPES, FUNCTIONS = "torch.fx.experimental.symbolic_shapes", "torch.utils._sympy.functions"
MARK = "__dynamo_disable"
"""The attribute in which `torch._compile` keeps what `disable` returned for a function."""


class _Symbol:
    """The type of symbols. Nothing is one."""


OF_NUMBERS: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(
        ["expect_true", "guard_or_false", "guard_or_true", "guard_size_oblivious", "statically_known_true"], bool
    ),
    **dict.fromkeys(["guard_int", "guarding_hint_or_throw", "size_hint"], int),
    "free_unbacked_symbols": lambda *values: set(),
    **dict.fromkeys(["has_guarding_hint", "has_hint"], lambda size: True),
    "is_nested_int": lambda size: False,
    "sym_and": lambda *values: all(values),
    "sym_eq": eq,
    "sym_or": lambda *values: any(values),
}
"""The functions of `SHAPES` in every supported torch, for sizes that are numbers."""


class _Needed(BaseException):
    """Code asked for more than the stand-ins have. No `except Exception` may hide that."""


def without_compiler(find: Callable[[], T]) -> T:
    """Return what a function finds that needs shapes alone, without importing the compiler.

    Afterwards torch is as before. A function that needs more of the compiler starts again and gets the real one.
    """
    if DYNAMO in sys.modules:
        return find()
    try:
        with _stand_ins():
            return find()
    except _Needed:
        return find()


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Put stand-ins in the place of modules that are not loaded."""
    unmarked: list[Callable[..., Any]] = []

    def disable(function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
        unmarked.append(function)  # torch keeps the answer as a mark
        return function

    contents: dict[str, Mapping[str, Any]] = {
        DYNAMO: {"disable": disable},
        SYMPY: {"Basic": _Symbol},
        SHAPES: OF_NUMBERS,
        FUNCTIONS: {"Max": max},
    }
    put = {name: _StandIn(name, values) for name, values in contents.items() if name not in sys.modules}
    sys.modules.update(put)
    vars(torch)["_dynamo"] = put[DYNAMO]
    try:
        yield
    finally:
        for name in put:
            del sys.modules[name]
        del vars(torch)["_dynamo"]
        for function in unmarked:
            vars(function).pop(MARK, None)


class _StandIn(ModuleType):
    """A module with a few names."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        super().__init__(name)
        vars(self).update(values)

    def __getattr__(self, name: str) -> Any:
        if name == "__path__" and self.__name__ in (SHAPES, FUNCTIONS):
            raise AttributeError(name)  # `from … import` asks whether this is a package
        raise _Needed(self.__name__, name)
