"""The sweep grid: head specs, layers and hyper-parameters expand to cells; cells that stack form groups."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from ..errors import InputError, unknown_name
from ..store.layout import layer_name, parse_layers
from .course import Course
from .heads import POOLINGS, Pooling
from .solver import SOLVERS, Solver

HEADS: Mapping[str, type[Pooling] | type[Solver]] = {**POOLINGS, **SOLVERS}
"""Every head by name: those trained by steps, and those that are not."""

PUBLISHED_BATCH, PUBLISHED_WARMUP, PUBLISHED_LR_BATCH = 4096, 10.0, 256


@dataclass(frozen=True)
class HeadSpec:
    """One head: a pooling's name and all its settings."""

    name: str
    settings: tuple[tuple[str, Any], ...]

    @property
    def config(self) -> str:
        """The settings as text: the first always, others, and which tokens, where they differ from the default."""
        defaults = HEADS[self.name].defaults
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
        store: the store's name in the run.
        layers: indices; the channels of several are joined.
        head: the head.
        optimizer: name; of a head that is not trained by steps, how it is fitted.
        lr: base learning rate, or None without one.
        weight_decay: weight decay, or the penalty of a head in closed form, or None without one.
        shots: "full", "16" for images a class, or "0.1" for a fraction of each class.
        seed: of the initialisation, and of the subset.
    """

    store: str
    layers: tuple[int, ...]
    head: HeadSpec
    optimizer: str
    lr: float | None
    weight_decay: float | None
    shots: str
    seed: int

    @property
    def layer(self) -> str:
        """The layers as text, such as "11" or "8+9+10+11"."""
        return layers_text(self.layers)

    @property
    def name(self) -> str:
        """A name that is unique in a run and fit for a file."""
        layers = "+".join([layer_name(self.layers[0]), *(f"{layer:02d}" for layer in self.layers[1:])])
        rates = {"lr": self.lr, "wd": self.weight_decay}
        parts = [self.store, layers, self.head.label.replace(":", "-"), self.optimizer]
        parts += [f"{name}={_number_text(value)}" for name, value in rates.items() if value is not None]
        return "-".join([*parts, f"shots={self.shots}", f"seed={self.seed}"])


def store_of(cell: str) -> str:
    """Return the store's name in the run, from the name of a cell."""
    return cell.rpartition("-layer_")[0]


class CellGroup(NamedTuple):
    """Cells that are fitted together, and what they are trained on.

    Attributes:
        course: of all of them.
        cells: of one head on the same layers; of a solver, of the heads that it fits at once.
    """

    course: Course
    cells: tuple[Cell, ...]


def layers_text(layers: Sequence[int]) -> str:
    """Return layers as the results and flags write them: "8+9+10+11"."""
    return "+".join(map(str, layers))


def parse_layer_sets(spec: str, stored: Sequence[int], depth: int) -> list[tuple[int, ...]]:
    """Read "all", "last4" or "0,5,8+9+10+11" into sets of stored layers: single ones first, then joined ones.

    Raises:
        InputError: not of that form, a layer that is not stored, or one joined with itself.
    """
    parts = spec.split(",")
    single = ",".join(part for part in parts if "+" not in part)
    joined = [_parse_joined(part, stored, depth) for part in parts if "+" in part]
    sets = [(layer,) for layer in parse_layers(single, stored, depth)] if single or not joined else []
    return list(dict.fromkeys([*sets, *joined]))


def parse_heads(specs: Iterable[str]) -> list[HeadSpec]:
    """Read specs such as "ep:queries=8|32" into heads, one for each combination of alternatives.

    Raises:
        InputError: unknown head or setting, or a value of the wrong kind.
    """
    heads: list[HeadSpec] = []
    for spec in specs:
        name, _, rest = spec.partition(":")
        if name not in HEADS:
            raise unknown_name("head", name, HEADS)
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


def make_cells(
    store: str,
    layers: tuple[int, ...],
    heads: Sequence[HeadSpec],
    course: Course,
    *,
    optimizer: str,
    lrs: Sequence[float],
    weight_decays: Sequence[float],
) -> list[CellGroup]:
    """Return the cells of one course that are trained by steps, in groups that can be stacked: those of one head."""
    swept = list(product(dict.fromkeys(lrs), dict.fromkeys(weight_decays), course.seeds))
    return [
        CellGroup(
            course,
            tuple(Cell(store, layers, head, optimizer, lr, decay, course.shots, seed) for lr, decay, seed in swept),
        )
        for head in heads
        if head.name in POOLINGS
    ]


def make_solver_cells(
    store: str, layers: tuple[int, ...], heads: Sequence[HeadSpec], course: Course
) -> list[CellGroup]:
    """Return the cells of one course that are not trained by steps, in groups that one solver fits.

    Nothing is drawn for them, so that on full data there is one seed.
    """
    together: dict[tuple[str, str], list[Cell]] = {}
    for head in heads:
        if head.name in SOLVERS:
            solver = SOLVERS[head.name]
            cells = [
                Cell(store, layers, head, solver.optimizer, None, penalty, course.shots, course.seeds[0])
                for penalty in solver.penalties or (None,)
            ]
            key = head.label if solver.penalties else str(dict(head.settings)["pool"])  # one search serves every k
            together.setdefault((head.name, key), []).extend(cells)
    return [CellGroup(course, tuple(cells)) for cells in together.values()]


def default_batch_size(n_images: int) -> int:
    """Return 4096, or for a small set the largest power of two that leaves ten steps an epoch, at least min(n, 32)."""
    tenth = max(1, n_images // 10)
    return max(min(PUBLISHED_BATCH, 1 << (tenth.bit_length() - 1)), min(n_images, 32))


def default_warmup(epochs: int) -> float:
    """Return 10 epochs, but at most a ninth of all."""
    return min(PUBLISHED_WARMUP, epochs / 9)


def _parse_joined(spec: str, stored: Sequence[int], depth: int) -> tuple[int, ...]:
    """Read "8+9+10+11" into the layers that it joins."""
    try:
        wanted = [int(index) for index in spec.split("+")]
    except ValueError:
        raise InputError(f"layers {spec!r}: expected indices to join, such as 8+9+10+11") from None
    layers = tuple(parse_layers(",".join(map(str, wanted)), stored, depth))
    if len(layers) < len(wanted):
        raise InputError(f"layers {spec!r} joins a layer with itself; give each one once")
    return layers


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
