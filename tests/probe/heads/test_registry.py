"""The registry: the settings of every pooling, their defaults, and those that are refused."""

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import POOLINGS, Pooling, build_pooling

GRID = (3, 2)
DEFAULTS: dict[str, dict[str, Any]] = {
    "ep": {"queries": 32, "d_out": 1, "tokens": "patch"},
    "abmilp": {
        "self_attention": "both", "depth": 2, "activation": "tanh", "content": "all", "cond": "none", "tokens": "patch",
    },
    "simpool": {"tokens": "patch"},
    "esimpool": {"heads": 12, "tokens": "patch"},
    "clip": {"heads": 4, "tokens": "patch"},
    "siglip": {"heads": 8, "mlp_ratio": 4, "tokens": "patch"},
    "aim": {"heads": 16, "tokens": "patch"},
    "cbam": {},
    "coca": {"heads": 8, "queries": 196, "tokens": "patch"},
    "cait": {"heads": 4, "mlp_ratio": 4, "tokens": "patch"},
    "dinovit": {"heads": 8, "mlp_ratio": 4, "tokens": "patch"},
    "jepa": {"heads": 16, "mlp_ratio": 4, "tokens": "patch"},
    "dolg": {"tokens": "patch"},
    "cae": {"heads": 8, "tokens": "patch"},
    "linear": {"pool": "mean", "unit": False},
}  # fmt: skip
"""Those of the published heads. Their order makes labels, which saved results hold."""


def with_setting(setting: str) -> list[str]:
    return [name for name, defaults in DEFAULTS.items() if setting in defaults]


def test_defaults_are_the_published_ones_in_the_order_of_labels() -> None:
    found = {name: list(pooling.defaults.items()) for name, pooling in POOLINGS.items()}
    assert found == {name: list(defaults.items()) for name, defaults in DEFAULTS.items()}


@pytest.mark.parametrize("name", POOLINGS)
def test_a_default_stands_in_the_settings_alone(name: str) -> None:
    kind = POOLINGS[name]
    assert kind.__init__ is Pooling.__init__, "a constructor of its own could hold a default of its own"
    assert list(kind.defaults.items()) == [(field.name, field.default) for field in fields(kind.settings)]
    assert all(f"\n        {key}: " in str(type(kind.settings).__doc__) for key in kind.defaults), "not documented"


@pytest.mark.parametrize("name", POOLINGS)
def test_settings_are_frozen(name: str) -> None:
    settings = build_pooling(name, dim=96, grid=GRID).settings
    for key, value in {"another": 1, **POOLINGS[name].defaults}.items():
        with pytest.raises(FrozenInstanceError):
            setattr(settings, key, value)


def test_a_pooling_has_the_settings_it_was_given_and_leaves_the_defaults() -> None:
    pool = build_pooling("ep", dim=96, grid=GRID, queries=8)
    assert vars(pool.settings) == {"queries": 8, "d_out": 1, "tokens": "patch"}
    assert vars(POOLINGS["ep"].settings) == pool.defaults == DEFAULTS["ep"]


@pytest.mark.parametrize("name", POOLINGS)
def test_the_registry_agrees_with_the_pooling(name: str) -> None:
    pool = build_pooling(name, dim=96, grid=(7, 7), **POOLINGS[name].defaults)
    assert pool.name == name and pool.inputs == (("mean",) if name == "linear" else ("patch",))
    default, named = (
        dict(build_pooling(name, dim=96, grid=(7, 7), **s).named_parameters()) for s in ({}, pool.defaults)
    )
    assert {key: value.shape for key, value in default.items()} == {key: value.shape for key, value in named.items()}


@pytest.mark.parametrize("name", with_setting("tokens"))
def test_unknown_tokens_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"unknown setting tokens of {name} 'prefix'; known: patch.prefix, patch"):
        build_pooling(name, dim=96, grid=GRID, tokens="prefix")


@pytest.mark.parametrize("name", sorted({*with_setting("heads")} - {"coca"}))
def test_heads_that_do_not_divide_the_width_are_refused(name: str) -> None:
    for heads in (10, 0, -8):
        expected = rf"{name} with heads={heads} on tokens 96 wide: heads must divide the width; give one of "
        with pytest.raises(InputError, match=expected):
            build_pooling(name, dim=96, grid=GRID, heads=heads)
    with pytest.raises(InputError, match="give one of 4, 6, 8, 12"):
        build_pooling(name, dim=96, grid=GRID, heads=10)


@pytest.mark.parametrize("name", with_setting("mlp_ratio"))
def test_an_mlp_without_hidden_units_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} with mlp_ratio=0: expected 1 or more"):
        build_pooling(name, dim=96, grid=GRID, mlp_ratio=0)


def test_unknown_head_lists_the_nearest_first() -> None:
    with pytest.raises(InputError, match="unknown head 'linaer'; known: linear, "):
        build_pooling("linaer", dim=8, grid=(2, 2))


def test_unknown_setting_lists_the_nearest_first() -> None:
    with pytest.raises(InputError, match="unknown setting of head 'ep' 'd_uot'; known: d_out, queries"):
        build_pooling("ep", dim=8, grid=(2, 2), d_uot=2)
