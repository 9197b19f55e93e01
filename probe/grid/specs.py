"""Head specs: they turn text such as "ep:queries=8|32" into heads with all settings."""

from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from ...errors import InputError, unknown_name
from ...store.layout import EMBEDDING
from ..batches.token_shape import TokenShape
from ..heads import POOLINGS, Pooling, build_pooling, find_pooling
from ..heads.own import installed, names_code
from ..solvers import SOLVERS, Solver

HEADS: Mapping[str, type[Pooling] | type[Solver]] = ChainMap[str, Any](SOLVERS, POOLINGS)
"""Every head by name: heads trained by steps, which code outside the package may add, and heads fitted at once."""


@dataclass(frozen=True)
class HeadSpec:
    """One head: a pooling's name and all its settings."""

    name: str
    settings: tuple[tuple[str, Any], ...]

    @property
    def config(self) -> str:
        """The settings as text: always the first, and every other one that differs from its default."""
        defaults = HEADS[self.name].defaults
        first = next((key for key in defaults if key != "tokens"), None)
        shown = [(key, value) for key, value in self.settings if key == first or value != defaults[key]]
        return ",".join(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in shown)

    @property
    def label(self) -> str:
        """Name and settings, such as "ep:queries=32"."""
        return f"{self.name}:{self.config}" if self.config else self.name

    @property
    def solved(self) -> bool:
        """Whether the head is fitted at once instead of trained by steps."""
        return self.name in SOLVERS

    def input_shape(self, shape: TokenShape) -> TokenShape:
        """Return the shape of the head's input. An embedding may have another width than the tokens."""
        reads_embedding = dict(self.settings).get("pool") == EMBEDDING
        return replace(shape, dim=shape.embedding) if reads_embedding else shape

    def inputs(self, shape: TokenShape) -> tuple[str, ...]:
        """Return the arrays of a layer that the head reads.

        Raises:
            InputError: its settings do not fit the tokens.
        """
        settings = dict(self.settings)
        name, own = ("linear", {"pool": settings["pool"]}) if self.solved else (self.name, settings)
        return build_pooling(name, **shape.of_pooling, draw=False, **own).inputs


def parse_heads(specs: Iterable[str]) -> list[HeadSpec]:
    """Read specs such as "ep:queries=8|32" into heads, one per combination of alternatives.

    Raises:
        InputError: a head or setting is unknown, or a value has the wrong type.
    """
    heads: list[HeadSpec] = []
    for spec in specs:
        name, rest = _split_name(spec)
        choices: dict[str, list[Any]] = {key: [value] for key, value in HEADS[name].defaults.items()}
        given: set[str] = set()
        for pair in filter(None, rest.split(",")):
            key, equals, values = pair.partition("=")
            if key not in choices:
                raise unknown_name(f"setting of head {name!r}", key, choices)
            if not equals or not values or key in given:
                raise InputError(f"head {spec!r}: expected {key}=value" + " once" * (key in given))
            given.add(key)
            choices[key] = [_as_kind_of(choices[key][0], text, spec) for text in values.split("|")]
        heads += [HeadSpec(name, tuple(zip(choices, values, strict=True))) for values in product(*choices.values())]
    return list(dict.fromkeys(heads))


def find_head(name: str) -> type[Pooling] | type[Solver]:
    """Return a head by the name that a user wrote; MODULE:CLASS is imported.

    Raises:
        InputError: no such head.
    """
    if name not in HEADS:
        if not names_code(name) and installed(name) is None:
            raise unknown_name("head", name, HEADS)
        find_pooling(name, imports=True)
    return HEADS[name]


def _split_name(spec: str) -> tuple[str, str]:
    """Split a spec into the name of a head, which `find_head` knows, and the text of its settings.

    Raises:
        InputError: no such head.
    """
    name, _, rest = spec.partition(":")
    own, _, following = rest.partition(":")
    if name not in HEADS and names_code(f"{name}:{own}"):
        name, rest = f"{name}:{own}", following
    find_head(name)
    return name, rest


def _as_kind_of(default: Any, text: str, spec: str) -> Any:
    """Convert a setting's text to the type of its default."""
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise InputError(f"head {spec!r}: expected true or false, got {text!r}")
        return text == "true"
    try:
        return type(default)(text)
    except ValueError:
        raise InputError(f"head {spec!r}: expected {type(default).__name__}, got {text!r}") from None
