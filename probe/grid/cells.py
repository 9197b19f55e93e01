"""Cells, the points of the sweep grid, and groups of cells that are fitted together."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from ..batches.layer_set import LayerSet
from ..solvers import SOLVERS, Solver
from .regimes import Regime
from .specs import HeadSpec

LONGEST_NAME = 239
"""Most bytes in a cell's name: with `.safetensors.tmp` it names a file, and file systems allow 255 bytes."""


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    Attributes:
        store: the store's name in the run.
        layers: the layers that the head reads.
        head: the head.
        optimizer: its name, or the method for a head that is fitted at once.
        lr: base learning rate, or None without one.
        weight_decay: weight decay, or a solver's penalty, or None without one.
        shots: "full", "16" for images per class, or "0.1" for a fraction of each class.
        seed: seed of the initialisation and of the subset.
    """

    store: str
    layers: LayerSet
    head: HeadSpec
    optimizer: str
    lr: float | None
    weight_decay: float | None
    shots: str
    seed: int

    @property
    def layer(self) -> str:
        """The layers as text, such as "11", "8+9+10+11" or "stack:2+5+8+11"."""
        return self.layers.text

    @property
    def name(self) -> str:
        """A name that is unique in a run and can name a file. A long name ends in a hash."""
        rates = {"lr": self.lr, "wd": self.weight_decay}
        parts = [self.store, self.layers.name, self.head.label.replace(":", "-"), self.optimizer]
        parts += [f"{name}={_number_text(value)}" for name, value in rates.items() if value is not None]
        return shortened("-".join([*parts, f"shots={self.shots}", f"seed={self.seed}"]), LONGEST_NAME)


def shortened(name: str, most: int) -> str:
    """Return a name of at most `most` bytes. The end of a longer name is replaced by a hash of the whole name."""
    encoded = name.encode()
    if len(encoded) <= most:
        return name
    end = "~" + hashlib.sha256(encoded).hexdigest()[:10]
    return encoded[: most - len(end)].decode(errors="ignore") + end


def store_of(cell: str) -> str:
    """Return a store's name in the run, from a cell's name."""
    return cell.rpartition("-layer_")[0]


class CellGroup(NamedTuple):
    """Cells that are fitted together, and their regime.

    Attributes:
        regime: the regime of all cells.
        cells: cells of one head on the same layers, or cells that one solver fits at once.
    """

    regime: Regime
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Grid:
    """The cells of a fit: every head on every layer, in every regime, at every rate.

    Attributes:
        store: the store's name in the run.
        layers: the sets of layers that heads read.
        heads: of each layer.
        regimes: of each head.
        optimizer: of the heads that are trained by steps.
        lrs: base learning rates.
        weight_decays: of the heads that are trained by steps.
    """

    store: str
    layers: Sequence[LayerSet]
    heads: Sequence[HeadSpec]
    regimes: Sequence[Regime]
    optimizer: str
    lrs: Sequence[float]
    weight_decays: Sequence[float]

    @property
    def shots(self) -> list[str]:
        """The training sets, including "full", as the results name them."""
        return list(dict.fromkeys(regime.shots for regime in self.regimes))

    def trained_groups(self, layers: LayerSet, regime: Regime) -> list[CellGroup]:
        """Return the cells that are trained by steps, in one group per head. The cells of a group can be stacked."""
        swept = list(product(dict.fromkeys(self.lrs), dict.fromkeys(self.weight_decays), regime.seeds))
        return [
            CellGroup(
                regime,
                tuple(
                    Cell(self.store, layers, head, self.optimizer, lr, decay, regime.shots, seed)
                    for lr, decay, seed in swept
                ),
            )
            for head in self.heads
            if not head.solved
        ]

    def solved_groups(self, layers: LayerSet, regime: Regime) -> list[CellGroup]:
        """Return the cells that are fitted at once, in groups that share one solver.

        They draw no random numbers, so full data has one seed. Images that cannot choose a penalty get the strongest:
        then each solver compares an image with the classes' means.
        """
        together: dict[tuple[str, str], list[Cell]] = {}
        for head in self.heads:
            if head.solved:
                solver = SOLVERS[head.name]
                penalties = solver.penalties and ((max(solver.penalties),) if regime.lone else solver.penalties)
                cells = [
                    Cell(self.store, layers, head, solver.optimizer, None, penalty, regime.shots, regime.seeds[0])
                    for penalty in penalties or (None,)
                ]
                key = head.label if solver.penalties else str(dict(head.settings)["pool"])  # one search serves every k
                together.setdefault((head.name, key), []).extend(cells)
        return [CellGroup(regime, tuple(cells)) for cells in together.values()]


def make_solver(cells: Sequence[Cell]) -> Solver:
    """Return the solver for the cells of one head, or of one search.

    Raises:
        InputError: the solver cannot use a setting.
    """
    settings = [dict(cell.head.settings) for cell in cells]
    return SOLVERS[cells[0].head.name](settings, [cell.weight_decay or 0.0 for cell in cells])


def _number_text(value: float) -> str:
    """Return a number as text for a file name: the short form if it is exact."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
