"""Head specs, layers and the grid of cells, against lists written by hand."""

from dataclasses import make_dataclass
from itertools import product

import numpy as np
import pytest

from tokenprobe.errors import InputError
from tokenprobe.probe import grid
from tokenprobe.probe.course import Course
from tokenprobe.probe.grid import (
    Cell,
    HeadSpec,
    default_batch_size,
    default_warmup,
    layers_text,
    make_cells,
    make_solver_cells,
    parse_heads,
    parse_layer_sets,
    store_of,
)
from tokenprobe.probe.heads.linear import LinearPooling
from tokenprobe.probe.solver import SOLVERS


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
    monkeypatch.setitem(grid.HEADS, "switched", Switched)
    assert [h.label for h in parse_heads(["switched:normed=false|true"])] == [
        "switched:pool=mean",
        "switched:pool=mean,normed=true",
    ]
    with pytest.raises(InputError, match="head 'switched:normed=yes': expected true or false, got 'yes'"):
        parse_heads(["switched:normed=yes"])


def test_the_label_of_a_head_with_a_switch_is_a_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(grid.HEADS, "switched", Switched)
    heads = parse_heads(["switched:normed=true"])
    assert parse_heads([head.label for head in heads]) == heads


def course(shots: str = "full", seeds: tuple[int, ...] = (0,)) -> Course:
    return Course(shots, seeds, np.arange(8), np.arange(2), 4, 3, 0.5, (1, 2, 3))


def test_the_grid_is_every_combination_grouped_by_head() -> None:
    heads = parse_heads(["ep:queries=2|4", "knn", "linear"])
    on = course("16", (0, 1, 2))
    groups = make_cells("vit", (7,), heads, on, optimizer="sgd", lrs=[0.1, 1.0], weight_decays=[0.0, 0.5])
    assert [{cell.head for cell in group.cells} for group in groups] == [{heads[0]}, {heads[1]}, {heads[3]}]
    for group in groups:
        assert group.course is on
        assert [(cell.lr, cell.weight_decay, cell.seed) for cell in group.cells] == list(
            product([0.1, 1.0], [0.0, 0.5], [0, 1, 2])
        )
        assert {(c.store, c.layers, c.optimizer, c.shots) for c in group.cells} == {("vit", (7,), "sgd", "16")}


def test_a_solver_fits_all_penalties_and_one_search_serves_every_k() -> None:
    heads = parse_heads(["knn:k=5|10", "ep", "ridge", "knn:pool=cls", "ridge:pool=cls"])
    groups = make_solver_cells("vit", (7,), heads, course(seeds=(0, 1, 2)))
    assert [[cell.head.label for cell in group.cells][:2] for group in groups] == [
        ["knn:k=5", "knn:k=10"], ["ridge:pool=mean"] * 2, ["knn:k=20,pool=cls"], ["ridge:pool=cls"] * 2,
    ]  # fmt: skip
    assert {cell.seed for group in groups for cell in group.cells} == {0}
    assert {cell.lr for group in groups for cell in group.cells} == {None}
    assert [cell.weight_decay for cell in groups[1].cells] == list(SOLVERS["ridge"].penalties)
    assert [cell.weight_decay for cell in groups[0].cells] == [None, None]


def test_a_cell_is_named_after_all_that_tells_it_apart() -> None:
    head = parse_heads(["ep:queries=8,d_out=2"])[0]
    assert Cell("vit", (5,), head, "lars", 0.1, 0.0, "full", 1).name == (
        "vit-layer_05-ep-queries=8,d_out=2-lars-lr=0.1-wd=0-shots=full-seed=1"
    )
    joined = Cell("vit", (8, 9, 11), head, "none", None, None, "0.1", 0)
    assert joined.name == "vit-layer_08+09+11-ep-queries=8,d_out=2-none-shots=0.1-seed=0"
    assert (joined.layer, layers_text((5,))) == ("8+9+11", "5")


@pytest.mark.parametrize("store", ["vit", "my-layer_norm~a1b2c3"])
def test_the_name_of_a_cell_tells_its_store(store: str) -> None:
    head = parse_heads(["ep:queries=8"])[0]
    assert store_of(Cell(store, (8, 11), head, "lars", 0.1, 0.0, "full", 1).name) == store


def test_names_are_unique_in_the_grid() -> None:
    lrs = [0.1, 0.10000001, 1.0, 1e-8]
    heads = parse_heads(["ep:queries=2|4"])
    groups = [
        group
        for layers in ((0,), (1,), (0, 1))
        for on in (course(seeds=(0, 1)), course("1"), course("0.1"))
        for group in make_cells("vit", layers, heads, on, optimizer="lars", lrs=lrs, weight_decays=[0.0, 1e-9])
    ]
    names = [cell.name for group in groups for cell in group.cells]
    assert len(set(names)) == len(names) == 2 * 4 * 2 * 3 * 4
    assert not any("/" in name for name in names)


@pytest.mark.parametrize("field", ["lrs", "weight_decays"])
def test_a_value_given_twice_makes_one_cell(field: str) -> None:
    swept: dict[str, list[float]] = {"lrs": [0.1], "weight_decays": [0.0]}
    swept[field] = swept[field] * 2
    groups = make_cells("vit", (0,), parse_heads(["linear"]), course(), optimizer="lars", **swept)
    assert [len(group.cells) for group in groups] == [1]


@pytest.mark.parametrize(
    ("spec", "sets"),
    [
        ("all", [(0,), (2,), (8,), (9,), (11,)]),
        ("last2", [(9,), (11,)]),
        ("8+9+11", [(8, 9, 11)]),
        ("11+8", [(8, 11)]),
        ("-1+-4", [(8, 11)]),
        ("0,8+9,-1,9+11", [(0,), (11,), (8, 9), (9, 11)]),
        ("all,8+9", [(0,), (2,), (8,), (9,), (11,), (8, 9)]),
        ("8+9,9+8", [(8, 9)]),
    ],
)
def test_layers_are_single_or_joined(spec: str, sets: list[tuple[int, ...]]) -> None:
    assert parse_layer_sets(spec, [0, 2, 8, 9, 11], depth=12) == sets


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("8+10", "unknown layer of the store '10'; known: 0"),
        ("0,8+", r"layers '8\+': expected indices to join, such as 8\+9\+10\+11"),
        ("last4+2", r"layers 'last4\+2': expected indices to join"),
        ("0,8+9+8", r"layers '8\+9\+8' joins a layer with itself; give each one once"),
        ("11+-1", r"layers '11\+-1' joins a layer with itself"),
        ("", "layers '': expected all, lastN, or indices"),
    ],
)
def test_layers_that_cannot_be_joined_are_refused(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_layer_sets(spec, [0, 2, 8, 9, 11], depth=12)


@pytest.mark.parametrize("n_images", [1, 2, 5, 31, 32, 33, 63, 319, 320, 639, 640, 5000, 40_959, 40_960, 1_281_167])
def test_the_default_batch_leaves_ten_steps_an_epoch(n_images: int) -> None:
    size = default_batch_size(n_images)
    fitting = [2**power for power in range(13) if 10 * 2**power <= n_images]
    assert size == max([*fitting, min(n_images, 32)])


@pytest.mark.parametrize(("epochs", "expected"), [(90, 10), (900, 10), (45, 5), (4, 4 / 9)])
def test_the_default_warmup_is_ten_epochs_but_at_most_a_ninth(epochs: int, expected: float) -> None:
    assert default_warmup(epochs) == pytest.approx(expected, abs=1e-12)
