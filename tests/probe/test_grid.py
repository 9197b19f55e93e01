"""Head specs, layers and the grid of cells, against lists written by hand."""

from itertools import product
from typing import Any, ClassVar

import pytest

from tokenprobe.errors import InputError
from tokenprobe.probe.grid import (
    Cell,
    HeadSpec,
    default_batch_size,
    default_warmup,
    make_groups,
    parse_heads,
)
from tokenprobe.probe.heads import POOLINGS
from tokenprobe.probe.heads.linear import LinearPooling


class Switched(LinearPooling):
    """A pooling with a switch; none of the registry has one yet."""

    defaults: ClassVar[dict[str, Any]] = {"pool": "mean", "normed": False}


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
    monkeypatch.setitem(POOLINGS, "switched", Switched)
    assert [h.label for h in parse_heads(["switched:normed=false|true"])] == [
        "switched:pool=mean",
        "switched:pool=mean,normed=true",
    ]
    with pytest.raises(InputError, match="head 'switched:normed=yes': expected true or false, got 'yes'"):
        parse_heads(["switched:normed=yes"])


def test_the_label_of_a_head_with_a_switch_is_a_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POOLINGS, "switched", Switched)
    heads = parse_heads(["switched:normed=true"])
    assert parse_heads([head.label for head in heads]) == heads


def test_the_grid_is_every_combination_grouped_by_head() -> None:
    heads = parse_heads(["ep:queries=2|4", "linear"])
    groups = make_groups(7, heads, optimizer="sgd", lrs=[0.1, 1.0], weight_decays=[0.0, 0.5], n_seeds=3)
    assert [{cell.head for cell in group} for group in groups] == [{head} for head in heads]
    for group in groups:
        assert [(cell.lr, cell.weight_decay, cell.seed) for cell in group] == list(
            product([0.1, 1.0], [0.0, 0.5], [0, 1, 2])
        )
        assert {(cell.layer, cell.optimizer, cell.shots) for cell in group} == {(7, "sgd", "full")}


def test_a_cell_is_named_after_all_that_tells_it_apart() -> None:
    head = parse_heads(["ep:queries=8,d_out=2"])[0]
    assert Cell(5, head, "lars", 0.1, 0.0, 1).name == (
        "layer_05-ep-queries=8,d_out=2-lars-lr=0.1-wd=0-shots=full-seed=1"
    )


def test_names_are_unique_in_the_grid() -> None:
    lrs = [0.1, 0.10000001, 1.0, 1e-8]
    groups = make_groups(
        0, parse_heads(["ep:queries=2|4"]), optimizer="lars", lrs=lrs, weight_decays=[0.0, 1e-9], n_seeds=2
    )
    names = [cell.name for group in groups for cell in group]
    assert len(set(names)) == len(names) == 32
    assert not any("/" in name for name in names)


@pytest.mark.parametrize("field", ["lrs", "weight_decays"])
def test_a_value_given_twice_makes_one_cell(field: str) -> None:
    grid: dict[str, list[float]] = {"lrs": [0.1], "weight_decays": [0.0]}
    grid[field] = grid[field] * 2
    groups = make_groups(0, parse_heads(["linear"]), optimizer="lars", n_seeds=1, **grid)
    assert [len(group) for group in groups] == [1]


@pytest.mark.parametrize("n_images", [1, 2, 5, 31, 32, 33, 63, 319, 320, 639, 640, 5000, 40_959, 40_960, 1_281_167])
def test_the_default_batch_leaves_ten_steps_an_epoch(n_images: int) -> None:
    size = default_batch_size(n_images)
    fitting = [2**power for power in range(13) if 10 * 2**power <= n_images]
    assert size == max([*fitting, min(n_images, 32)])


@pytest.mark.parametrize(("epochs", "expected"), [(90, 10), (900, 10), (45, 5), (4, 4 / 9)])
def test_the_default_warmup_is_ten_epochs_but_at_most_a_ninth(epochs: int, expected: float) -> None:
    assert default_warmup(epochs) == pytest.approx(expected, abs=1e-12)
