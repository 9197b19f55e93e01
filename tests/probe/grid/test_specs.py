"""Head specs, against lists written by hand."""

from dataclasses import make_dataclass
from itertools import product

import pytest

from tokenprobe.errors import InputError
from tokenprobe.probe.grid import specs as specs_module
from tokenprobe.probe.grid.specs import HeadSpec, parse_heads
from tokenprobe.probe.heads.linear import LinearPooling


class Switched(LinearPooling):
    """A pooling with a switch."""

    settings = make_dataclass("SwitchedSettings", [("pool", str, "mean"), ("normed", bool, False)], frozen=True)()


@pytest.mark.parametrize(
    ("specs", "labels"),
    [
        (["ep"], ["ep:queries=32"]),
        (["linear"], ["linear:pool=mean"]),
        (["simpool", "cbam"], ["simpool", "cbam"]),
        (["simpool:tokens=patch|patch+prefix"], ["simpool", "simpool:tokens=patch+prefix"]),
        (["abmilp:depth=1,cond=pe"], ["abmilp:self_attention=both,depth=1,cond=pe"]),
        (["ep:queries=8|32"], ["ep:queries=8", "ep:queries=32"]),
        (["ep:d_out=2"], ["ep:queries=32,d_out=2"]),
        (["ep:d_out=1|2,queries=4|8"], [f"ep:queries={q}{d}" for q, d in product((4, 8), ("", ",d_out=2"))]),
        (["linear:pool=cls|mean", "ep"], ["linear:pool=cls", "linear:pool=mean", "ep:queries=32"]),
        (["ep", "ep:queries=32", "ep:queries=8|8"], ["ep:queries=32", "ep:queries=8"]),
    ],
)
def test_specs_expand_to_heads(specs: list[str], labels: list[str]) -> None:
    heads = parse_heads(specs)
    assert [head.label for head in heads] == labels
    assert parse_heads(labels) == heads  # a label is a spec


def test_a_head_holds_all_its_settings_as_values() -> None:
    assert parse_heads(["ep:queries=8"]) == [HeadSpec("ep", (("queries", 8), ("d_out", 1), ("tokens", "patch")))]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("eq:queries=8", "unknown head 'eq'; known: ep, "),
        ("", "unknown head ''"),
        ("ep:querys=8", "unknown setting of head 'ep' 'querys'; known: queries, d_out"),
        ("linear:queries=8", "unknown setting of head 'linear' 'queries'; known: pool"),
        ("ep:queries", "head 'ep:queries': expected queries=value"),
        ("ep:queries=", "head 'ep:queries=': expected queries=value"),
        ("ep:queries=many", "head 'ep:queries=many': expected int, got 'many'"),
        ("ep:queries=8|", r"head 'ep:queries=8\|': expected int, got ''"),
        ("ep:queries=1.5", "head 'ep:queries=1.5': expected int, got '1.5'"),
    ],
)
def test_a_bad_spec_is_refused(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_heads([spec])


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="ep:queries=8,queries=16"):
        parse_heads(["ep:queries=8,queries=16"])


def test_a_switch_is_true_or_false(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(specs_module.HEADS, "switched", Switched)
    assert [h.label for h in parse_heads(["switched:normed=false|true"])] == [
        "switched:pool=mean",
        "switched:pool=mean,normed=true",
    ]
    with pytest.raises(InputError, match="head 'switched:normed=yes': expected true or false, got 'yes'"):
        parse_heads(["switched:normed=yes"])


def test_the_label_of_a_head_with_a_switch_is_a_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(specs_module.HEADS, "switched", Switched)
    heads = parse_heads(["switched:normed=true"])
    assert parse_heads([head.label for head in heads]) == heads
