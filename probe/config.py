"""The settings of one fit. Every field is a flag of `probe fit`, and a key of its config file, of the same name."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import InputError, unknown_name

FILE_KEYS = {"heads": "head"}
"""Fields whose flag, and key in a config file, is spelt otherwise."""

MADE_FROM = "made_from"
"""Key under which a run's `config.yaml` keeps what is no setting; ignored when the file is used again."""

PROTOCOLS = ("select", "paper")
NORMS = ("none", "final")
CACHES = ("auto", "gpu", "ram", "disk")

LR_GRID, PAPER_LR = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0], [0.1]


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Which heads to train, how, and where results go.

    Attributes:
        out: the run's folder.
        heads: specs NAME[:key=value,…]; alternatives in a value, as in "ep:queries=8|32", make a grid.
        layers: "all", "last4", or indices such as "0,5,-1", of those stored; "8+9+10+11" joins the channels of several.
        norm: "none" for the layers' raw outputs, or "final" to apply the backbone's final norm to every token first.
        optimizer: "lars", "sgd" or "adamw".
        lr: base learning rates; the rate is base lr × batch size / 256. Protocol "select" defaults to the grid
            0.1, 0.3, 1, 3, 10, 30 and "paper" to 0.1.
        weight_decay: weight decays.
        epochs: passes over the training rows.
        batch_size: images in a step; by default 4096, or for a small set the largest power of two that leaves ten
            steps an epoch, but at least min(n, 32); never more than there are training images.
        warmup_epochs: of linear rise from 0; by default 10, but at most a ninth of the epochs.
        shots: training images a class, such as 16, or "full" for all, the default unless a fraction is given.
        fraction: of the training images of each class to train on, such as 0.01.
        min_steps: a subset that takes fewer steps than this is passed over several times an epoch.
        seeds: how many times each cell is trained: seeds 0, 1, … of the initialisation, and of the subset under `shots`
            and `fraction`.
        seed: of the order of batches and of the validation split.
        val: fraction of the training split that protocol "select" holds out to select on.
        val_split: name of a split to select on instead, for data that brings its own.
        protocol: "select" (on held-out training images) or "paper" (the best epoch on the test split).
        train_split: name of the split to train on.
        test_split: name of the split to report on; by default the first of test, val, validation.
        test_store: store that holds the test split, of the same backbone; by default the one trained on.
        device: "auto", "cpu", "cuda", "cuda:1"….
        amp: "auto" (bfloat16 on CUDA, off on CPU), "off", "bfloat16" or "float16".
        cache: where a layer's patch tokens are kept between epochs: "gpu", "ram", "disk", or "auto" for the
            first of these that they fit.
        dry_run: print what would be trained, read and taken, and do nothing.
    """

    out: str | Path
    heads: list[str] = field(default_factory=lambda: ["ep", "linear:pool=mean"])
    layers: str = "all"
    norm: str = "none"
    optimizer: str = "lars"
    lr: list[float] = field(default_factory=list)
    weight_decay: list[float] = field(default_factory=lambda: [0.0])
    epochs: int = 90
    batch_size: int | None = None
    warmup_epochs: float | None = None
    shots: list[str] = field(default_factory=list)
    fraction: list[float] = field(default_factory=list)
    min_steps: int = 0
    seeds: int = 1
    seed: int = 0
    val: float = 0.1
    val_split: str | None = None
    protocol: str = "select"
    train_split: str = "train"
    test_split: str | None = None
    test_store: str | Path | None = None
    device: str = "auto"
    amp: str = "auto"
    cache: str = "auto"
    dry_run: bool = False

    @classmethod
    def fields_from_file(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """Turn the keys of a config file into fields; a single value stands for a list of one.

        Raises:
            InputError: unknown key, or a value of the wrong kind.
        """
        field_of = {FILE_KEYS.get(each.name, each.name): each for each in fields(cls)}
        hints, values = get_type_hints(cls), {}
        for key, value in content.items():
            if key == MADE_FROM:
                continue
            if key not in field_of:
                raise unknown_name("key of the config file", key, field_of)
            values[field_of[key].name] = _read(hints[field_of[key].name], value, key)
        return values


def _read(hint: Any, value: Any, key: str) -> Any:
    """Read a value of a YAML file as the type of a field."""
    if get_origin(hint) is list:
        return [_read(get_args(hint)[0], item, key) for item in (value if isinstance(value, list) else [value])]
    kinds = get_args(hint) or (hint,)
    if value is None and NoneType in kinds:
        return None
    if kinds == (bool,) and isinstance(value, bool):
        return value
    if isinstance(value, bool) and str in kinds:
        return "on" if value else "off"  # what a bare on or off means in YAML
    kind = next(kind for kind in (bool, int, float, str) if kind in kinds)
    known = {bool: (), int: (int,), float: (int, float, str), str: (int, float, str)}[kind]
    try:
        if isinstance(value, known) and not isinstance(value, bool):
            return kind(value)  # YAML reads 1e-1 as text
    except ValueError:
        pass
    raise InputError(f"config file: {key}: expected {kind.__name__}, got {value!r}")
