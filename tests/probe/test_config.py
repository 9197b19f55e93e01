"""Config files, and the defaults that the design fixes."""

from typing import Any

import pytest
import yaml

from tokenprobe.errors import InputError
from tokenprobe.probe import FitConfig


def from_yaml(text: str) -> FitConfig:
    return FitConfig(**{"out": "runs/x"} | FitConfig.fields_from_file(yaml.safe_load(text)))


def test_the_defaults_are_the_published_schedule() -> None:
    config = FitConfig(out="runs/x")
    assert (config.optimizer, config.epochs, config.weight_decay, config.layers) == ("lars", 90, [0.0], "all")
    assert (config.protocol, config.val, config.seeds, config.seed) == ("select", 0.1, 1, 0)
    assert config.heads == ["ep", "linear:pool=mean"]


def test_keys_of_a_file_are_named_as_the_flags() -> None:
    config = from_yaml("head: ['ep:queries=8|32', linear]\nlr: [0.1, 3]\nepochs: 12\nlayers: last4\nval: 0.2\n")
    assert config == FitConfig(
        out="runs/x", heads=["ep:queries=8|32", "linear"], lr=[0.1, 3], epochs=12, layers="last4", val=0.2
    )


def test_a_single_value_stands_for_a_list_of_one() -> None:
    assert from_yaml("head: linear\nlr: 0.5\nweight_decay: 0\n") == FitConfig(
        out="runs/x", heads=["linear"], lr=[0.5], weight_decay=[0]
    )


def test_what_a_run_says_about_itself_is_no_setting() -> None:
    assert FitConfig.fields_from_file({"made_from": {"stores": ["a"]}, "epochs": 3}) == {"epochs": 3}


@pytest.mark.parametrize(
    ("key", "nearest"), [("epoch", "epochs"), ("heads", "head"), ("weight-decay", "weight_decay"), ("learning", "")]
)
def test_an_unknown_key_is_refused(key: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"unknown key of the config file '{key}'; known: {nearest}"):
        FitConfig.fields_from_file({key: 1})


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("layers: 11", "layers", "11"),
        ("lr: 1e-1", "lr", [0.1]),
        ("lr: [1e-1, 3e+0]", "lr", [0.1, 3.0]),
        ("amp: off", "amp", "off"),
    ],
    ids=["one layer", "exponent", "exponents", "YAML's off"],
)
def test_values_that_yaml_reads_as_another_type_mean_what_the_flag_would(text: str, field: str, expected: Any) -> None:
    assert getattr(from_yaml(text), field) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: many", "config file: epochs: expected int, got 'many'"),
        ("epochs: null", "config file: epochs: expected int, got None"),
        ("epochs: true", "config file: epochs: expected int, got True"),
        ("seed: 0.5", "config file: seed: expected int, got 0.5"),
        ("lr: [0.1, fast]", "config file: lr: expected float, got 'fast'"),
        ("val: [0.1]", r"config file: val: expected float, got \[0.1\]"),
        ("layers: [0, 5]", r"config file: layers: expected str, got \[0, 5\]"),
        ("head: {ep: 8}", "config file: head: expected str, got {'ep': 8}"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_yaml(text)


@pytest.mark.parametrize("key", ["batch_size", "warmup_epochs", "test_split"])
def test_what_may_be_left_open_may_be_null(key: str) -> None:
    assert FitConfig.fields_from_file({key: None}) == {key: None}
