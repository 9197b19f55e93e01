"""Settings hold their declared types, whatever form their values came in."""

from dataclasses import FrozenInstanceError, dataclass, field, replace
from typing import Annotated, Any

import pytest

from tokenprobe.errors import InputError
from tokenprobe.runtime.options import ALL, DATA, Joined, Option, Several, several
from tokenprobe.runtime.settings import Amp, Device, Settings, Workers


@dataclass(frozen=True, kw_only=True)
class Made(Settings):
    lr: Annotated[Several[float], Option("Rates.", DATA)] = field(default_factory=several(0.1))
    layers: Annotated[Joined, Option("Layers.", DATA, joined=True)] = ALL
    workers: Workers = None
    device: Device = "auto"
    amp: Amp = "auto"


def test_settings_hold_their_declared_types() -> None:
    assert Made(lr=3, layers=[1, 2]) == Made(lr=[3.0], layers="1,2")
    assert Made() == Made(lr=0.1, workers=None)
    assert replace(Made(lr=3), layers=7) == Made(lr=[3.0], layers="7")


def test_type_checkers_know_what_fits() -> None:
    """mypy would complain of an ignored error that is none."""
    with pytest.raises(InputError, match=r"^lr None: expected a number$"):
        Made(lr=None)  # type: ignore[arg-type]
    number: float = Made(lr=3).lr[0]
    assert number == 3 and Made(lr="1,2", layers=11).layers.startswith("11")


def test_settings_keep_a_copy() -> None:
    rates = [0.1]
    made = Made(lr=rates)
    rates.append(3.0)
    assert made.lr == [0.1]
    with pytest.raises(FrozenInstanceError):
        made.lr = rates  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr": "fast"}, "^lr 'fast': expected a number$"),
        ({"workers": -1}, "^workers -1: expected at least 0$"),
        ({"amp": "float6"}, "^unknown amp 'float6'; known: float16, bfloat16, "),
    ],
)
def test_a_wrong_value_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Made(**given)
