"""The sweep grid: head specs, layers and hyper-parameters expand to cells; cells that stack form groups."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any

from ..errors import InputError, unknown_name
from ..store.layout import layer_name
from .heads import POOLINGS

PUBLISHED_BATCH, PUBLISHED_WARMUP, PUBLISHED_LR_BATCH = 4096, 10.0, 256


@dataclass(frozen=True)
class HeadSpec:
    """One head: a pooling's name and all its settings."""

    name: str
    settings: tuple[tuple[str, Any], ...]

    @property
    def config(self) -> str:
        """The settings as text: the first always, others, and which tokens, where they differ from the default."""
        defaults = POOLINGS[self.name].defaults
        first = next((key for key in defaults if key != "tokens"), None)
        shown = [(key, value) for key, value in self.settings if key == first or value != defaults[key]]
        return ",".join(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in shown)

    @property
    def label(self) -> str:
        """Name and settings, such as "ep:queries=32"."""
        return f"{self.name}:{self.config}" if self.config else self.name


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    Attributes:
        layer: index.
        head: the head.
        optimizer: name.
        lr: base learning rate.
        weight_decay: weight decay.
        seed: of the initialisation.
    """

    layer: int
    head: HeadSpec
    optimizer: str
    lr: float
    weight_decay: float
    seed: int
    shots: str = "full"

    @property
    def name(self) -> str:
        """A name that is unique in a run and fit for a file."""
        head = self.head.label.replace(":", "-")
        rates = f"lr={_number_text(self.lr)}-wd={_number_text(self.weight_decay)}"
        rest = f"{self.optimizer}-{rates}-shots={self.shots}-seed={self.seed}"
        return f"{layer_name(self.layer)}-{head}-{rest}"


def parse_heads(specs: Iterable[str]) -> list[HeadSpec]:
    """Read specs such as "ep:queries=8|32" into heads, one for each combination of alternatives.

    Raises:
        InputError: unknown head or setting, or a value of the wrong kind.
    """
    heads: list[HeadSpec] = []
    for spec in specs:
        name, _, rest = spec.partition(":")
        if name not in POOLINGS:
            raise unknown_name("head", name, POOLINGS)
        choices: dict[str, list[Any]] = {key: [value] for key, value in POOLINGS[name].defaults.items()}
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


def make_groups(
    layer: int,
    heads: Sequence[HeadSpec],
    *,
    optimizer: str,
    lrs: Sequence[float],
    weight_decays: Sequence[float],
    n_seeds: int,
) -> list[list[Cell]]:
    """Return the cells of one layer in groups that can be stacked: those of one head."""
    cells = [
        Cell(layer, head, optimizer, lr, weight_decay, seed)
        for head in heads
        for lr, weight_decay, seed in product(dict.fromkeys(lrs), dict.fromkeys(weight_decays), range(n_seeds))
    ]
    return [list(group) for _, group in groupby(cells, key=lambda cell: cell.head)]


def default_batch_size(n_images: int) -> int:
    """Return 4096, or for a small set the largest power of two that leaves ten steps an epoch, at least min(n, 32)."""
    tenth = max(1, n_images // 10)
    return max(min(PUBLISHED_BATCH, 1 << (tenth.bit_length() - 1)), min(n_images, 32))


def default_warmup(epochs: int) -> float:
    """Return 10 epochs, but at most a ninth of all."""
    return min(PUBLISHED_WARMUP, epochs / 9)


def _number_text(value: float) -> str:
    """Return a number for a file's name: short where that is exact."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _as_kind_of(default: Any, text: str, spec: str) -> Any:
    """Read a setting's text as the type that its default has."""
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise InputError(f"head {spec!r}: expected true or false, got {text!r}")
        return text == "true"
    try:
        return type(default)(text)
    except ValueError:
        raise InputError(f"head {spec!r}: expected {type(default).__name__}, got {text!r}") from None
