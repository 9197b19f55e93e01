"""Tables: what a cell says, and that none is wider than the terminal."""

import statistics
from collections.abc import Callable
from io import StringIO

import pandas as pd
import pytest
from rich.console import Console

from tokenprobe.probe.report.summary import summarise, tidy
from tokenprobe.probe.report.tables import layer_table, markdown_table, shots_table, terminal_tables

MakeResults = Callable[..., pd.DataFrame]
LOST = {"status": "diverged in epoch 2", "selected": False}


def numbers(n_heads: int, n_layers: int, name: str = "head {}") -> pd.DataFrame:
    """A table as of `layer_table`, each cell its head and layer."""
    layers = pd.Index([str(layer) for layer in range(n_layers)], name="layer")
    heads = pd.Index([name.format(head) for head in range(n_heads)], name="head")
    return pd.DataFrame([[f"{h}.{layer:02d}" for h in range(n_heads)] for layer in range(n_layers)], layers, heads)


def shown(table: pd.DataFrame, width: int) -> list[list[list[str]]]:
    """What a terminal shows: pieces of rows of texts, checked to fit."""
    written = StringIO()
    console = Console(width=width, file=written)
    console.print(*terminal_tables(table, console), sep="\n")
    text = written.getvalue()
    assert max(map(len, text.splitlines())) <= width
    return [
        [[value.strip() for value in line.strip("┃│").split(line[0])] for line in piece.splitlines() if line[0] in "┃│"]
        for piece in text.split("┏")[1:]
    ]


def test_a_row_a_layer_and_a_column_a_head_in_percent(make_results: MakeResults) -> None:
    tests = {("a", "10"): [0.7, 0.72], ("a", "2"): [0.2, 0.26], ("b", "2"): [0.3, 0.31], ("b", "10"): [0.4, 0.45]}
    rows = [
        {"head": head, "head_config": "", "layer": layer, "seed": seed, "test": test}
        for (head, layer), of_seeds in tests.items()
        for seed, test in enumerate(of_seeds)
    ]
    summary = summarise(tidy(make_results(*rows, {"head": "b", "head_config": "", "layer": "2+10", **LOST})))
    table = layer_table(summary)
    assert (table.index.name, table.columns.name) == ("layer", "head")
    assert (table.index.tolist(), table.columns.tolist()) == (["2", "10", "2+10"], ["a", "b"])
    expected = {key: [100 * f(values) for f in (statistics.mean, statistics.stdev)] for key, values in tests.items()}
    for (head, layer), (mean, std) in expected.items():
        assert table.loc[layer, head] == f"{mean:.1f} ± {std:.1f}"
        assert layer_table(summary, spread=False).loc[layer, head] == f"{mean:.1f}"
    assert table.loc["2+10"].tolist() == ["", "diverged"]
    marked = layer_table(summary, spread=False, mark=True)
    assert marked["a"].tolist() == ["23.0  ", "71.0 *", ""]
    assert marked["b"].tolist() == ["30.5  ", "42.5 *", "diverged  "]


def test_no_layer_is_marked_where_all_diverged(make_results: MakeResults) -> None:
    summary = summarise(tidy(make_results({"layer": "0", **LOST}, {"layer": "1", **LOST})))
    assert layer_table(summary, mark=True)["EP, 8 queries"].tolist() == ["diverged  "] * 2


def test_a_row_a_number_of_shots_at_each_heads_selected_layer(make_results: MakeResults) -> None:
    vals = {("full", "2"): 0.5, ("full", "9+10"): 0.6, ("16", "2"): 0.4, ("16", "9+10"): 0.3}
    rows = [{"shots": shots, "layer": layer, "val_top1": val, "test": 1 - val} for (shots, layer), val in vals.items()]
    other = [{"head": "x", "shots": "full", "test": 0.1}, {"head": "x", "shots": "16", **LOST}]
    table = shots_table(summarise(tidy(make_results(*rows, *other, {"shots": "0.5", "test": 0.2}))))
    assert (table.index.name, table.index.tolist()) == ("shots", ["full", "0.5", "16"])
    assert table["EP, 8 queries"].tolist() == ["40.0 @9+10", "20.0 @0", "60.0 @2"]
    assert table["x:queries=8"].tolist() == ["10.0 @0", "", "diverged"]


@pytest.mark.parametrize(("n_heads", "n_layers"), [(3, 6), (3, 3), (1, 24)])
def test_as_many_layers_as_heads_are_rows_of_layers(n_heads: int, n_layers: int) -> None:
    (rows,) = shown(numbers(n_heads, n_layers), width=80)
    assert rows[0] == ["layer", *(f"head {head}" for head in range(n_heads))]
    assert rows[1:] == [[str(layer), *(f"{h}.{layer:02d}" for h in range(n_heads))] for layer in range(n_layers)]


def test_more_heads_than_layers_are_rows_of_heads() -> None:
    (rows,) = shown(numbers(14, 4), width=80)
    assert rows[0] == ["head", "0", "1", "2", "3"]
    assert rows[1:] == [[f"head {h}", *(f"{h}.{layer:02d}" for layer in range(4))] for h in range(14)]


def test_a_table_that_is_too_wide_is_turned() -> None:
    table = numbers(5, 6, "head number {}")
    assert [rows[0][0] for rows in shown(table, width=100)] == ["layer"]
    (rows,) = shown(table, width=60)
    assert rows[0] == ["head", *map(str, range(6))]
    assert rows[1:] == [[f"head number {h}", *(f"{h}.{layer:02d}" for layer in range(6))] for h in range(5)]


@pytest.mark.parametrize("width", [30, 50, 80])
@pytest.mark.parametrize(("n_heads", "n_layers"), [(14, 12), (14, 24), (10, 12)])
def test_a_table_that_fits_neither_way_is_in_pieces_of_heads_by_layers(n_heads: int, n_layers: int, width: int) -> None:
    pieces = shown(numbers(n_heads, n_layers), width)
    assert len(pieces) > 1
    seen: dict[str, list[str]] = {}
    for header, *rows in pieces:
        assert header[0] == "head"
        for head, *values in rows:
            seen.setdefault(head, []).extend(values)
    assert [layer for header, *_ in pieces for layer in header[1:]] == [str(layer) for layer in range(n_layers)]
    assert seen == {f"head {h}": [f"{h}.{layer:02d}" for layer in range(n_layers)] for h in range(n_heads)}


def test_long_names_break_after_their_punctuation() -> None:
    table = numbers(1, 2, "abmilp:self_attention=map,cond=pe")
    (rows,) = shown(table, width=80)
    assert [row[1] for row in rows[:3]] == ["abmilp:", "self_attention=map,", "cond=pe"]
    (rows,) = shown(numbers(2, 1, "abmilp{}:self_attention=map,cond=pe"), width=80)
    assert [row[0] for row in rows[1:4]] == ["abmilp0:", "self_attention=map,", "cond=pe"]
    assert shown(numbers(1, 2, "simpool:heads=12"), width=80)[0][0] == ["layer", "simpool:heads=12"]


def test_markdown() -> None:
    assert markdown_table(numbers(2, 2)) == [
        "| layer | head 0 | head 1 |",
        "|--:|--:|--:|",
        "| 0 | 0.00 | 1.00 |",
        "| 1 | 0.01 | 1.01 |",
    ]


def test_a_bar_in_a_name_does_not_divide_a_cell_of_markdown() -> None:
    table = pd.DataFrame({"a|b": ["1|2"]}, index=pd.Index(["c|d"], name="layer"))
    assert markdown_table(table) == [r"| layer | a\|b |", "|--:|--:|", r"| c\|d | 1\|2 |"]
