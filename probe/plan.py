"""Everything decided before the first step: which rows, which cells, on which device, from where."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..errors import InputError, unknown_name
from ..store import Split, Store
from ..store.layout import PATCH, layer_name, parse_layers
from .config import LR_GRID, PAPER_LR, FitConfig
from .grid import Cell, HeadSpec, default_batch_size, default_warmup, make_groups, parse_heads
from .heads import build_pooling
from .optim import OPTIMIZERS
from .select import PROTOCOLS
from .split import hold_out

TEST_SPLITS = ("test", "val", "validation")
CHOICES = {
    "optimizer": tuple(OPTIMIZERS),
    "protocol": PROTOCOLS,
    "amp": ("auto", "off", "bfloat16", "float16"),
    "cache": ("auto", "gpu", "ram", "disk"),
}
CGROUP = Path("/sys/fs/cgroup")
OWN = ("out", "heads", "layers", "lr", "weight_decay", "seeds", "device", "cache")
"""Settings that differ between the cells of a run or between machines; a run may be repeated with others."""

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """A fit with nothing left open.

    Attributes:
        config: as given.
        store: the open store.
        train_split: of the store.
        test_split: of the store.
        train_rows: sorted rows to train on.
        val_rows: sorted rows of the training split held out to select on; none under protocol "paper".
        layers: to fit.
        heads: to fit on each.
        lrs: base learning rates.
        batch_size: images in a step.
        warmup_epochs: of linear rise.
        device: to train on.
        precision: "float32", or what matrix products are rounded to.
    """

    config: FitConfig
    store: Store
    train_split: Split
    test_split: Split
    train_rows: Rows
    val_rows: Rows
    layers: Sequence[int]
    heads: Sequence[HeadSpec]
    lrs: Sequence[float]
    batch_size: int
    warmup_epochs: float
    device: torch.device
    precision: str

    def groups(self, layer: int) -> list[list[Cell]]:
        """Return the cells of one layer, those that stack together."""
        return make_groups(
            layer,
            self.heads,
            optimizer=self.config.optimizer,
            lrs=self.lrs,
            weight_decays=self.config.weight_decay,
            n_seeds=self.config.seeds,
        )

    def cache(self, layer: int) -> str:
        """Return where the patch tokens of a layer are kept: the first of gpu, ram and disk that they fit."""
        if self.config.cache != "auto":
            return self.config.cache
        n_rows = len(self.train_rows) + len(self.val_rows) + len(self.test_split)
        shape, itemsize = self.train_split.shape(layer), self.train_split.dtype(PATCH).itemsize
        needed = n_rows * shape.n_patches * shape.dim * itemsize
        if self.device.type == "cuda" and needed < torch.cuda.mem_get_info(self.device)[0] // 2:
            return "gpu"
        return "ram" if needed < _available_ram() // 2 else "disk"

    def settings(self) -> dict[str, Any]:
        """Return the whole resolved config as plain values, for `config.yaml`."""
        resolved = {
            "heads": [head.label for head in self.heads],
            "layers": ",".join(map(str, self.layers)),
            "lr": list(self.lrs),
            "batch_size": self.batch_size,
            "warmup_epochs": self.warmup_epochs,
            "train_split": self.train_split.name,
            "test_split": self.test_split.name,
            "device": str(self.device),
            "amp": "off" if self.precision == "float32" else self.precision,
        }
        return {key: str(value) if key == "out" else value for key, value in (asdict(self.config) | resolved).items()}

    def shared_settings(self) -> dict[str, Any]:
        """Return what all cells of a run have in common: settings, and the store's identity."""
        manifest = self.store.manifest
        data = {split.name: manifest.fingerprint(split.name, 0) for split in (self.train_split, self.test_split)}
        return {key: value for key, value in self.settings().items() if key not in OWN} | {"fingerprints": data}


def make_plan(store: Store, config: FitConfig) -> Plan:
    """Check a config against a store and decide what it leaves open.

    Raises:
        InputError: something asked for is unknown, out of range, or not in the store.
        StoreError: a layer asked for is not completely written.
    """
    _check(config)
    train_split, test_split = store[config.train_split], store[_test_split_name(store, config)]
    if train_split.classes != test_split.classes:
        raise InputError(
            f"splits {train_split.name!r} and {test_split.name!r} of {str(store.path)!r} have different classes "
            f"({len(train_split.classes)} and {len(test_split.classes)}): their labels do not mean the same"
        )
    if train_split.name == test_split.name:
        raise InputError(f"split {test_split.name!r} is both trained on and reported on; give another --test-split")
    layers = parse_layers(config.layers, train_split.layers, store.manifest.depth)
    heads = parse_heads(config.heads)
    _check_store(train_split, test_split, layers, heads)
    if config.protocol == "select":
        train_rows, val_rows = hold_out(train_split.labels, config.val, config.seed)
    else:
        train_rows, val_rows = np.arange(len(train_split)), np.arange(0)
    if len(train_rows) < 2:
        raise InputError(f"{len(train_rows)} training image(s) in {train_split.name!r}: BatchNorm needs two or more")
    device = _resolve_device(config.device)
    if config.cache == "gpu" and device.type != "cuda":
        raise InputError(f"cache 'gpu' asked for on device {str(device)!r}; give --cache ram or disk")
    return Plan(
        config=config,
        store=store,
        train_split=train_split,
        test_split=test_split,
        train_rows=train_rows,
        val_rows=val_rows,
        layers=layers,
        heads=heads,
        lrs=config.lr or (LR_GRID if config.protocol == "select" else PAPER_LR),
        batch_size=min(config.batch_size or default_batch_size(len(train_rows)), len(train_rows)),
        warmup_epochs=default_warmup(config.epochs) if config.warmup_epochs is None else config.warmup_epochs,
        device=device,
        precision=_resolve_precision(config.amp, device),
    )


def _check(config: FitConfig) -> None:
    for name, known in CHOICES.items():
        if getattr(config, name) not in known:
            raise unknown_name(name, getattr(config, name), known)
    for name, least in (("epochs", 1), ("seeds", 1), ("seed", 0), ("batch_size", 2)):  # BatchNorm needs two images
        value = getattr(config, name)
        if value is not None and value < least:
            raise InputError(f"{name} {value}: expected at least {least}")
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


def _test_split_name(store: Store, config: FitConfig) -> str:
    if config.test_split is not None:
        return config.test_split
    names = [name for name in TEST_SPLITS if name in store.splits and name != config.train_split]
    if not names:
        raise InputError(
            f"{str(store.path)!r} has no split named {', '.join(TEST_SPLITS)} beside {config.train_split!r} "
            f"(it has {', '.join(store.splits)}); name the one to report on with --test-split"
        )
    return names[0]


def _check_store(train: Split, test: Split, layers: Sequence[int], heads: Sequence[HeadSpec]) -> None:
    for layer in layers:
        for head in heads:
            shape = train.shape(layer)
            with torch.device("meta"):  # to see whether it fits, without drawing weights
                inputs = build_pooling(head.name, dim=shape.dim, grid=shape.grid, **dict(head.settings)).inputs
            for split in (train, test):
                missing = [kind for kind in inputs if not split.has(layer, kind)]
                if missing:
                    raise InputError(
                        f"head {head.label!r} reads {missing[0]!r} tokens, and {split.name}/{layer_name(layer)} of "
                        f"{str(split.store.path)!r} has none"
                    )
    for split in (train, test):
        split.check_complete(layers)


def _resolve_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        resolved = torch.device("meta")
    if resolved.type not in ("cpu", "cuda"):
        raise InputError(f"unknown device {device!r}; expected auto, cpu, cuda or cuda:N")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device {device!r} asked for, but torch finds {torch.cuda.device_count()} CUDA device(s)")
    return resolved


def _resolve_precision(amp: str, device: torch.device) -> str:
    if amp == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return "float32" if amp == "off" else amp


def _available_ram() -> int:
    """Return the memory that can be taken without swapping, in bytes."""
    meminfo, limit, used = Path("/proc/meminfo"), CGROUP / "memory.max", CGROUP / "memory.current"
    if meminfo.exists():
        entries = dict(line.split(":") for line in meminfo.read_text().splitlines())
        available = int(entries["MemAvailable"].split()[0]) * 1024
        if limit.exists() and used.exists() and limit.read_text().strip() != "max":  # in a container
            available = min(available, int(limit.read_text()) - int(used.read_text()))
        return available
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4  # macOS
