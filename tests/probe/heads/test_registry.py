"""The registry: what every pooling needs, its settings, their defaults, and those that are refused."""

import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

from tokenprobe.errors import InputError
from tokenprobe.probe.heads import POOLINGS, Pooling, build_pooling

from .facts import FACTS, KNOWN
from .formulas import FORMULAS

GRID = (3, 2)
ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "heads.md").read_text()


def with_setting(setting: str) -> list[str]:
    return [name for name, facts in KNOWN.items() if setting in facts.defaults]


def test_every_pooling_is_registered_and_has_its_facts() -> None:
    named = {
        name
        for file in (ROOT / "probe" / "heads").glob("*.py")
        for name in re.findall(r'^    name = "(\w+)"', file.read_text(), re.M)
    }
    unregistered = sorted((named | set(FACTS)) - set(POOLINGS))
    assert not unregistered, f"not in POOLINGS: {unregistered}. Add a line for each in probe/heads/__init__.py"
    missing = [name for name in POOLINGS if name not in FACTS]
    assert not missing, (
        f"the tests know nothing of {missing}. Add an entry for each to FACTS in tests/probe/heads/facts.py: at least "
        "`defaults` and `references`; tests/probe/heads/kit.py describes every field, and "
        'docs/heads.md, "Adding one", every place'
    )


@pytest.mark.parametrize("name", KNOWN)
def test_the_facts_of_a_head_are_complete(name: str) -> None:
    facts, lacking = KNOWN[name], {}
    if not facts.cases:
        lacking["cases"] = "settings to compare with the formula, {} for the defaults"
    if not facts.references and facts.references is not None:
        lacking["references"] = (
            "files of reference vectors with their settings, or None if no reference implementation exists"
        )
    if facts.references and not (facts.counts and facts.published_mflop):
        lacking["counts, published_mflop"] = "parameters and operations of the reference implementation"
    if not (facts.trained and facts.saved):
        lacking["trained, saved"] = 'settings to train and to save it with, "" for the defaults'
    assert not lacking, f"tests/probe/heads/facts.py lacks of {name}: {lacking}"
    assert name in FORMULAS, f"tests/probe/heads/formulas.py lacks a naive formula {name!r}, as a function of that name"


@pytest.mark.parametrize("name", KNOWN)
def test_defaults_are_the_published_ones_in_the_order_of_labels(name: str) -> None:
    found = dict(POOLINGS[name].defaults)
    assert list(found.items()) == list(KNOWN[name].defaults.items()), (
        f"{name} has other defaults or another order, which labels of saved results hold. If it is new, add "
        f"defaults={found} to its facts"
    )


@pytest.mark.parametrize("name", POOLINGS)
def test_the_documentation_has_every_setting(name: str) -> None:
    section = PAGE.split("\n## Settings\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("|")]
    for key in POOLINGS[name].defaults:
        assert any(
            f"`{key}`" in keys and (f"`{name}`" in names or "all attentive heads" in names) for keys, names in rows
        ), f'docs/heads.md, table of "Settings": no row has `{key}` of `{name}`'


@pytest.mark.parametrize("name", POOLINGS)
def test_a_default_stands_in_the_settings_alone(name: str) -> None:
    kind = POOLINGS[name]
    assert kind.__init__ is Pooling.__init__, "a constructor of its own could hold a default of its own"
    assert list(kind.defaults.items()) == [(field.name, field.default) for field in fields(kind.settings)]
    hints = get_type_hints(type(kind.settings), include_extras=True)
    assert all(len(get_args(hint)) == 2 for hint in hints.values()), "a field without a meaning: Annotated[int, '…']"


@pytest.mark.parametrize("name", POOLINGS)
def test_settings_are_frozen(name: str) -> None:
    settings = build_pooling(name, dim=96, grid=GRID).settings
    for key, value in {"another": 1, **POOLINGS[name].defaults}.items():
        with pytest.raises(FrozenInstanceError):
            setattr(settings, key, value)


def test_a_pooling_has_the_settings_it_was_given_and_leaves_the_defaults() -> None:
    pool = build_pooling("ep", dim=96, grid=GRID, queries=8)
    assert vars(pool.settings) == {"queries": 8, "d_out": 1, "tokens": "patch"}
    assert vars(POOLINGS["ep"].settings) == pool.defaults == FACTS["ep"].defaults


@pytest.mark.parametrize("name", KNOWN)
def test_the_registry_agrees_with_the_pooling(name: str) -> None:
    pool = build_pooling(name, dim=96, grid=(7, 7), **POOLINGS[name].defaults)
    assert pool.name == name and pool.inputs == KNOWN[name].inputs
    default, named = (
        dict(build_pooling(name, dim=96, grid=(7, 7), **s).named_parameters()) for s in ({}, pool.defaults)
    )
    assert {key: value.shape for key, value in default.items()} == {key: value.shape for key, value in named.items()}


@pytest.mark.parametrize("name", with_setting("tokens"))
def test_unknown_tokens_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"unknown setting tokens of {name} 'prefix'; known: patch.prefix, patch"):
        build_pooling(name, dim=96, grid=GRID, tokens="prefix")


@pytest.mark.parametrize("name", [name for name in with_setting("heads") if not KNOWN[name].any_heads])
def test_heads_that_do_not_divide_the_width_are_refused(name: str) -> None:
    for heads in (10, -8) if KNOWN[name].zero_heads else (10, 0, -8):
        expected = rf"{name} with heads={heads} on tokens 96 wide: heads must divide the width; give one of "
        with pytest.raises(InputError, match=expected):
            build_pooling(name, dim=96, grid=GRID, heads=heads)
    with pytest.raises(InputError, match="give one of 4, 6, 8, 12"):
        build_pooling(name, dim=96, grid=GRID, heads=10)


@pytest.mark.parametrize("name", with_setting("mlp_ratio"))
def test_an_mlp_without_hidden_units_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} with mlp_ratio=0: expected 1 or more"):
        build_pooling(name, dim=96, grid=GRID, mlp_ratio=0)


def test_the_template_in_the_documentation_computes_its_formula() -> None:
    (code,) = re.findall(r'^```python\n(r""".*?)^```', PAGE, re.M | re.S)
    module = {"__name__": "tokenprobe.probe.heads.gem", "__package__": "tokenprobe.probe.heads"}
    exec(code, module)
    kind: type[Pooling] = module["GeMPooling"]  # type: ignore[assignment]
    pool = kind(kind.settings, dim=4, grid=GRID, cells=2).double()
    x = torch.randn(3, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pool.get_parameter("log_power")[1] = 0
    for cell, power in enumerate((3.0, 1.0)):
        expected = [[(sum(max(float(v), 1e-6) ** power for v in c) / 6) ** (1 / power) for c in image.T] for image in x]
        torch.testing.assert_close(pool(x)[:, cell], torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_unknown_head_lists_the_nearest_first() -> None:
    with pytest.raises(InputError, match="unknown head 'linaer'; known: linear, "):
        build_pooling("linaer", dim=8, grid=(2, 2))


def test_unknown_setting_lists_the_nearest_first() -> None:
    with pytest.raises(InputError, match="unknown setting of head 'ep' 'd_uot'; known: d_out, queries"):
        build_pooling("ep", dim=8, grid=(2, 2), d_uot=2)
