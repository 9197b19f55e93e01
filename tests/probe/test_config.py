"""The defaults that the design fixes, and every form in which a setting of a fit may be given."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenprobe.errors import InputError
from tokenprobe.probe import FitConfig
from tokenprobe.probe.config import cut_heads
from tokenprobe.probe.planning.places import DISK, GPU, RAM
from tokenprobe.probe.training.optim import OPTIMIZERS
from tokenprobe.runtime.config_file import read_config_file
from tokenprobe.runtime.options import fields_of


def from_yaml(folder: Path, text: str) -> FitConfig:
    (folder / "sweep.yaml").write_text(text)
    return FitConfig(**{"out": "runs/x"} | read_config_file(FitConfig, str(folder / "sweep.yaml")))


def test_the_defaults_are_the_published_schedule() -> None:
    config = FitConfig(out="runs/x")
    assert (config.optimizer, config.epochs, config.weight_decay, config.layers) == ("lars", 90, [0.0], "all")
    assert (config.protocol, config.val, config.seeds, config.seed) == ("select", 0.1, 1, 0)
    assert config.heads == ["ep", "linear:pool=mean"]


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("layers: [3, 7]", {"layers": "3,7"}),
        ("layers: 7", {"layers": "7"}),
        ("lr: 3.0", {"lr": [3.0]}),
        ("shots: [4]", {"shots": ["4"]}),
        ("shots: full,16,4", {"shots": ["full", "16", "4"]}),
        ("heads: ep", {"heads": ["ep"]}),
        ("head: ['ep:queries=8|32', linear]", {"heads": ["ep:queries=8|32", "linear"]}),
        ("heads: ep:queries=8,d_out=2,linear", {"heads": ["ep:queries=8,d_out=2", "linear"]}),
        ("weight_decay: 0", {"weight_decay": [0.0]}),
        ("warmup_epochs: null", {"warmup_epochs": None}),
        ("out: runs/y", {"out": "runs/y"}),
        ("made_from: {stores: [a]}", {}),
    ],
)
def test_a_file_says_what_python_says(tmp_path: Path, text: str, given: dict[str, Any]) -> None:
    config = from_yaml(tmp_path, text)
    assert config == FitConfig(**{"out": "runs/x"} | given)
    assert {name: getattr(config, name) for name in given} == given


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"layers": 7}, {"layers": "7"}),
        ({"layers": [3, 7]}, {"layers": "3,7"}),
        ({"lr": 3.0}, {"lr": [3.0]}),
        ({"lr": np.array([0.1, 1.0])}, {"lr": [0.1, 1.0]}),
        ({"shots": [4]}, {"shots": ["4"]}),
        ({"shots": 4}, {"shots": ["4"]}),
        ({"heads": "ep"}, {"heads": ["ep"]}),
        ({"head": "ep"}, {"heads": ["ep"]}),
        ({"head": ["ep", "linear"]}, {"heads": ["ep", "linear"]}),
        ({"test_store": Path("a.zarr")}, {"test_store": Path("a.zarr")}),
    ],
)
def test_python_may_give_single_values_and_lists(given: dict[str, Any], read: dict[str, Any]) -> None:
    config = FitConfig(out="runs/x", **given)
    for name, value in read.items():
        assert getattr(config, name) == value
    assert replace(config, epochs=3) == FitConfig(out="runs/x", epochs=3, **read)


def test_heads_and_head_are_one_setting() -> None:
    with pytest.raises(InputError, match=r"^heads and head are two names of one setting; give one of them$"):
        FitConfig(out="runs/x", heads=["linear"], head="ep")


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("ep,linear", ["ep", "linear"]),
        ("ep:queries=8|32,d_out=2,linear:pool=cls", ["ep:queries=8|32,d_out=2", "linear:pool=cls"]),
        ("knn:k=20, temperature=0.07, ridge", ["knn:k=20, temperature=0.07", " ridge"]),
    ],
)
def test_heads_are_cut_where_one_begins(text: str, cut: list[str]) -> None:
    assert cut_heads(text) == cut


def test_the_choices_are_those_of_the_code() -> None:
    fields = fields_of(FitConfig)
    assert set(fields["optimizer"].choices) == set(OPTIMIZERS)
    assert fields["cache"].choices == ("auto", GPU, RAM, DISK)
