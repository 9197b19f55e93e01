"""Everything decided before the first step: which rows, which cells, on which device, from where."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import inf
from typing import Any

import numpy as np
import torch

from ..errors import InputError, unknown_name
from ..runtime.device import AMP, resolve_device, resolve_precision
from ..store import Split, Store
from ..store.layout import EMBEDDING, PATCH, LayerShape
from .caching import SUBSETS, TEST, TRAIN, VAL, choose_places
from .config import LR_GRID, PAPER_LR, FitConfig
from .course import Course
from .courses import make_courses
from .data import Data, check_arrays, open_data
from .grid import (
    Cell,
    CellGroup,
    HeadSpec,
    default_warmup,
    layers_text,
    make_cells,
    make_solver_cells,
    parse_heads,
    parse_layer_sets,
)
from .heads import build_pooling
from .heads.linear import ARRAYS
from .memory import available_memory
from .norm import NORMS, FinalNorm, is_derived
from .optim import OPTIMIZERS
from .select import PROTOCOLS
from .solver import SOLVERS
from .split import FULL, Rows, is_fraction, parse_shots

CHOICES = {
    "optimizer": tuple(OPTIMIZERS),
    "protocol": PROTOCOLS,
    "amp": AMP,
    "cache": ("auto", "gpu", "ram", "disk"),
    "norm": NORMS,
}
GRID = (
    "heads", "layers", "shots", "fraction", "optimizer", "lr", "weight_decay", "seeds", "train_split", "val_split",
    "test_split", "test_store",
)  # fmt: skip
"""Settings that differ between the cells of a run, which may be extended with others. The data have fingerprints of
their own."""
OWN = (*GRID, "out", "device", "cache")
"""These, and what differs between machines: settings that a run does not share."""


@dataclass(frozen=True)
class Plan:
    """A fit of one store with nothing left open.

    Attributes:
        config: as given.
        data: the splits.
        courses: what is trained on, and how long: full data or subsets.
        layers: to fit; the channels of several are joined.
        heads: to fit on each.
        lrs: base learning rates.
        device: to train on.
        precision: "float32", or what matrix products are rounded to.
        norm: of the tokens, or None.
        name: of the store in the run.
    """

    config: FitConfig
    data: Data
    courses: Sequence[Course]
    layers: Sequence[tuple[int, ...]]
    heads: Sequence[HeadSpec]
    lrs: Sequence[float]
    device: torch.device
    precision: str
    norm: FinalNorm | None
    name: str

    def groups(self, layers: tuple[int, ...], course: Course) -> list[CellGroup]:
        """Return the cells that are trained on a course, those that stack together."""
        return make_cells(
            self.name,
            layers,
            self.heads,
            course,
            optimizer=self.config.optimizer,
            lrs=self.lrs,
            weight_decays=self.config.weight_decay,
        )

    def solver_groups(self, layers: tuple[int, ...], course: Course) -> list[CellGroup]:
        """Return the cells of a course that are not trained by steps, those that one solver fits."""
        return make_solver_cells(self.name, layers, self.heads, course)

    def shape(self, layers: tuple[int, ...]) -> LayerShape:
        """Return the shape of the tokens of joined layers."""
        shapes = [self.data.train.shape(layer) for layer in layers]
        dim, embedding = sum(shape.dim for shape in shapes), sum(shape.embedding for shape in shapes)
        return LayerShape(shapes[0].grid, dim, shapes[0].n_prefix, embedding)

    def input_shape(self, cell: Cell) -> LayerShape:
        """Return the shape of what a cell's head reads: an embedding is not as wide as the tokens it was made of."""
        shape = self.shape(cell.layers)
        return replace(shape, dim=shape.embedding) if dict(cell.head.settings).get("pool") == EMBEDDING else shape

    def rows(self, courses: Sequence[Course]) -> dict[str, Rows]:
        """Return the rows that courses read of each body of rows there is: TRAIN, SUBSETS, VAL and TEST."""
        held_out = self.data.val is self.data.train
        of_courses = {
            name: [c.train_rows for c in of_kind] + [c.val_rows for c in of_kind if held_out]
            for name, of_kind in (
                (TRAIN, [c for c in courses if c.shots == FULL]),
                (SUBSETS, [c for c in courses if c.shots != FULL]),
            )
            if of_kind
        }
        rows = {name: np.unique(np.concatenate(parts)) for name, parts in of_courses.items()}
        if not held_out:
            rows[VAL] = np.unique(np.concatenate([course.val_rows for course in courses]))
        return rows | {TEST: np.arange(len(self.data.test))}

    def split(self, name: str) -> Split:
        """Return the split that a body of rows is of."""
        return {VAL: self.data.val, TEST: self.data.test}.get(name, self.data.train)

    def sizes(self, layers: tuple[int, ...], courses: Sequence[Course]) -> dict[str, int]:
        """Return the bytes of the patch tokens of each body of rows."""
        shape, itemsize = self.shape(layers), self.data.train.dtype(PATCH).itemsize
        row_bytes = shape.n_patches * shape.dim * itemsize
        return {name: len(rows) * row_bytes * self.split(name).info.views for name, rows in self.rows(courses).items()}

    @property
    def token_dtype(self) -> torch.dtype:
        """Type of the tokens in a batch."""
        if self.norm is not None:
            return torch.float32
        split = self.data.train
        return torch.bfloat16 if split.is_bfloat16() else getattr(torch, split.dtype().name)

    def places(self, layers: tuple[int, ...], courses: Sequence[Course]) -> dict[str, str]:
        """Return where the patch tokens of each body of rows are kept."""
        room = {"gpu": available_memory(self.device) // 2} if self.device.type == "cuda" else {}
        room["ram"] = available_memory(torch.device("cpu")) // 2
        return choose_places(self.config.cache, self.sizes(layers, courses), room)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The whole resolved config as plain values, for `config.yaml`."""
        resolved: dict[str, Any] = {
            "heads": [head.label for head in self.heads],
            "layers": ",".join(map(layers_text, self.layers)),
            "lr": list(self.lrs),
            "shots": [shots for shots in self.shots if not is_fraction(shots)],
            "train_split": self.data.train.name,
            "test_split": self.data.test.name,
            "device": str(self.device),
            "amp": "off" if self.precision == "float32" else self.precision,
        }
        if self.config.warmup_epochs is None:
            resolved["warmup_epochs"] = default_warmup(self.config.epochs)
        settings = asdict(self.config) | resolved
        del settings["dry_run"]
        return {key: str(value) if key in ("out", "test_store") and value else value for key, value in settings.items()}

    @property
    def shots(self) -> list[str]:
        """The subsets, "full" among them, as the results name them."""
        return list(dict.fromkeys(course.shots for course in self.courses))

    def grid_settings(self) -> dict[str, Any]:
        """Return the settings that make the cells of this fit differ from others of a run."""
        return {key: value for key, value in self.settings.items() if key in GRID}

    def shared_settings(self) -> dict[str, Any]:
        """Return the settings that all cells of a run have in common."""
        return {key: value for key, value in self.settings.items() if key not in OWN}

    def about(self) -> list[str]:
        """Return what was decided, for people: a line for every size of training set."""
        test, lines = len(self.data.test), []
        for shots in self.shots:
            of_shots = [course for course in self.courses if course.shots == shots]
            course = of_shots[0]
            line = f"{len(course.train_rows):,} training, {len(course.val_rows):,} held-out and {test:,} test images"
            if shots != FULL:
                line = f"shots {shots}, {len(of_shots)} seeds: {line}"
            if self.config.batch_size != course.batch_size:
                line += (
                    f"; batch size {course.batch_size}, warm-up {course.warmup_epochs:.3g} of {course.epochs} epochs"
                )
            if len(course.scored) < self.config.epochs:
                line += f", scored {len(course.scored)} times"
            lines.append(line)
        if self.config.protocol == "paper":
            lines.append("protocol paper: the reported accuracy is the best epoch on the test split itself")
        return lines

    def identity(self) -> str:
        """Return what decides the numbers of a cell, beside what its name says."""
        return json.dumps({"settings": self.shared_settings(), "data": self.data.fingerprints()}, default=str)


def make_plan(store: Store, config: FitConfig, name: str = "") -> Plan:
    """Check a config against a store and decide what it leaves open.

    Args:
        store: to train on.
        config: of the fit.
        name: of the store in the run.

    Raises:
        InputError: something asked for is unknown, out of range, or not in the store.
        StoreError: a layer asked for is not completely written.
    """
    _check(config)
    shots = parse_shots(config.shots, config.fraction)
    data = open_data(store, config)
    layers = parse_layer_sets(config.layers, data.train.layers, store.manifest.depth)
    heads = parse_heads(config.heads)
    device = resolve_device(config.device)
    if config.cache == "gpu" and device.type != "cuda":
        raise InputError(f"cache 'gpu' asked for on device {str(device)!r}; give --cache ram or disk")
    plan = Plan(
        config=config,
        data=data,
        courses=make_courses(data, config, shots),
        layers=layers,
        heads=heads,
        lrs=config.lr or (LR_GRID if config.protocol == "select" else PAPER_LR),
        device=device,
        precision=resolve_precision(config.amp, device),
        norm=FinalNorm.of(store, device) if config.norm == "final" else None,
        name=name,
    )
    _check_heads(plan)
    return plan


def _check(config: FitConfig) -> None:
    for name, known in CHOICES.items():
        if getattr(config, name) not in known:
            raise unknown_name(name, getattr(config, name), known)
    least = {"epochs": 1, "seeds": 1, "seed": 0, "min_steps": 0, "batch_size": 2}  # BatchNorm needs two images
    for name, smallest in least.items():
        value = getattr(config, name)
        if value is not None and value < smallest:
            raise InputError(f"{name} {value}: expected at least {smallest}")
    if not config.heads or not config.weight_decay:
        raise InputError("no head or no weight decay given: there is nothing to fit")
    if not all(0 < lr < inf for lr in config.lr) or not all(0 <= decay < inf for decay in config.weight_decay):
        raise InputError(
            f"lr {config.lr}, weight_decay {config.weight_decay}: expected rates above 0, decays of 0 or more"
        )
    if config.warmup_epochs is not None and not 0 <= config.warmup_epochs < config.epochs:
        raise InputError(
            f"warmup_epochs {config.warmup_epochs}: expected 0 or more, and fewer than {config.epochs} epochs"
        )


def _check_heads(plan: Plan) -> None:
    """Refuse heads that do not fit the tokens or the training set, and layers that cannot be joined."""
    for course in plan.courses:
        for group in plan.solver_groups(plan.layers[0], course):
            try:
                SOLVERS[group.cells[0].head.name](group.cells).check(len(course.train_rows))
            except InputError as error:
                raise InputError(f"{error} (shots {course.shots})") from error
    for layers in plan.layers:
        shapes = {layer: plan.data.train.shape(layer) for layer in layers}
        if len({(shape.grid, shape.n_prefix) for shape in shapes.values()}) > 1:
            listed = ", ".join(f"{layer}: {shape.grid} + {shape.n_prefix}" for layer, shape in shapes.items())
            raise InputError(f"layers {layers_text(layers)!r} have different tokens ({listed}) and cannot be joined")
        if plan.norm is not None:
            for layer, shape in shapes.items():
                plan.norm.check(layer, shape.dim)
        wanted = [(head.label, _arrays_for(plan, head, layers)) for head in plan.heads]
        check_arrays(plan.data, layers, wanted)


def _arrays_for(plan: Plan, head: HeadSpec, layers: tuple[int, ...]) -> list[str]:
    """Return the stored arrays that a head is made from: a mean over normed tokens, from the tokens."""
    kinds = head_inputs(head, plan.shape(layers))
    return [*kinds, PATCH] if any(is_derived(kind, plan.norm) for kind in kinds) else [*kinds]


def head_inputs(head: HeadSpec, shape: LayerShape) -> tuple[str, ...]:
    """Return the arrays that a head reads.

    Raises:
        InputError: its settings do not fit the tokens.
    """
    settings = dict(head.settings)
    if head.name in SOLVERS:
        return ARRAYS[settings["pool"]]
    with torch.device("meta"):  # to see whether it fits, without drawing weights
        return build_pooling(head.name, dim=shape.dim, grid=shape.grid, **settings).inputs
