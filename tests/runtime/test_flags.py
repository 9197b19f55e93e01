"""Flags made from the fields of a config. What each command takes is tested in tests/test_cli.py."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from tokenprobe.runtime.flags import Parser, add_fields, given_fields


@dataclass
class Config:
    """A config.

    Attributes:
        model_arg: settings by name.
        layers: indices.
    """

    model_arg: dict[str, Any] = field(default_factory=dict)
    layers: list[int] = field(default_factory=list)


def read(*flags: str) -> dict[str, Any]:
    parser = Parser("made")
    add_fields(parser, Config, {})
    return given_fields(parser.parse_args(flags), Config)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], {}),
        (["--model-arg", "a=1,b=two"], {"model_arg": {"a": 1, "b": "two"}}),
        (["--model-arg", "a=1,b=2", "--model-arg", "b=3,c=4"], {"model_arg": {"a": 1, "b": 3, "c": 4}}),
        (["--layers", "-1,0", "--layers", "5"], {"layers": [-1, 0, 5]}),
    ],
)
def test_a_flag_given_again_adds_to_what_it_had(flags: list[str], expected: dict[str, Any]) -> None:
    assert read(*flags) == expected
