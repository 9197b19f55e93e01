"""The page and the terminal: which tables, notes and lines there are."""

import re
from collections.abc import Callable
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from tokenprobe.probe.report.contents import Report, gather
from tokenprobe.probe.report.page import print_leaders, print_remarks, print_sources, summary_page
from tokenprobe.probe.run.results import Run

MakeResults = Callable[..., pd.DataFrame]
HEADS = [("ep", "queries=8"), ("linear", "pool=mean"), ("plain", "")]
LABELS = ["EP, 8 queries", "linear probe, mean token", "plain"]
SPECS = [" (ep:queries=8)", " (linear:pool=mean)", ""]


def layers_of_heads(**changes: Any) -> list[dict[str, Any]]:
    """Layers 2, 9 and 10 of three heads: best on layer 9 by val, on layer 10 by test."""
    return [
        {"head": head, "head_config": config, "layer": layer, "val_top1": val, "test": test + 0.01 * number} | changes
        for (number, (head, config)), (layer, val, test) in product(
            enumerate(HEADS), [("2", 0.3, 0.2), ("9", 0.8, 0.55), ("10", 0.6, 0.7)]
        )
    ]


def report_of(results: pd.DataFrame) -> Report:
    """The report of results without a folder: what cells predict is not known."""
    run = Run(Path("nowhere"))
    run.results = results
    return gather([run])


def print_all(results: pd.DataFrame, console: Console) -> None:
    report = report_of(results)
    print_sources(report, console)
    print_remarks(report, console)


def printed(results: pd.DataFrame, width: int = 80) -> str:
    written = StringIO()
    console = Console(width=width, file=written)
    print_all(results, console)
    return written.getvalue()


def first_printed(results: pd.DataFrame, width: int = 80) -> list[str]:
    written = StringIO()
    console = Console(width=width, file=written)
    print_leaders(report_of(results), console)
    return written.getvalue().splitlines()


def titles(text: str) -> list[str]:
    """The lines over the tables."""
    return re.findall(r"^(test .*)\n┏", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("protocol", "note", "layer"),
    [
        ("select", "epoch and layer are selected on held-out images", 9),
        (
            "paper",
            "epoch and layer are selected on the test split itself, as published tables report; "
            "optimistic by construction",
            10,
        ),
    ],
)
def test_the_page_of_one_store_on_all_data(make_results: MakeResults, protocol: str, note: str, layer: int) -> None:
    lines = summary_page(report_of(make_results(*layers_of_heads(protocol=protocol)))).splitlines()
    highest = "plain, test top-1 57.0 %, layer 9" if layer == 9 else "plain, test top-1 72.0 %, layer 10"
    assert lines[:3] == ["# timm:none on made", "", f"**Highest head: {highest}**"]
    assert lines[lines.index(f"Test top-1 in %: {note}.") :][:3] == [
        f"Test top-1 in %: {note}.",
        "",
        "Test top-1 on made, all training images, 2,000 test images, @ selected layer",
    ]
    lines = lines[lines.index("* 1 seed of EP, 8 queries; linear probe, mean token; plain: too few to tell how much "
                              "the results depend on the initial weights; give --seeds 3") + 1 :]  # fmt: skip
    assert lines[:7] == [
        "",
        "| layer | EP, 8 queries | linear probe, mean token | plain |",
        "|--:|--:|--:|--:|",
        "| 2 | 20.0 | 21.0 | 22.0 |",
        "| 9 | 55.0 | 56.0 | 57.0 |",
        "| 10 | 70.0 | 71.0 | 72.0 |",
        "",
    ]
    assert [line.partition(", ")[0] for line in lines[7:10]] == ["* EP", "* linear probe", f"* plain: layer {layer}"]
    peak = "* over the whole grid: the highest peak of any head, layer, rate and seed is 72.0 %, optimism +17.0"
    assert [line.split(" over the sel")[0] for line in lines[10:-2]] == ([peak] if protocol == "select" else [])
    assert lines[-1] == "Heads: EP, 8 queries is `ep:queries=8`; linear probe, mean token is `linear:pool=mean`."


@pytest.mark.parametrize(
    ("shots", "differ"),
    [
        (["full"], "initialisation."),
        (["full", "16"], "initialisation, and below all training images in the subset too."),
    ],
)
def test_the_page_says_what_a_spread_is(make_results: MakeResults, shots: list[str], differ: str) -> None:
    rows = [{"shots": name, "seed": seed, "test": 0.5 + 0.01 * seed} for name in shots for seed in range(3)]
    rows.append({"layer": "1", "status": "diverged in epoch 1", "selected": False})
    assert f"± is the standard deviation over 3 seeds, which differ in {differ}\n" in summary_page(
        report_of(make_results(*rows))
    )
    assert "±" not in summary_page(report_of(make_results(*rows[::3])))
    alone = {"head": "knn", "test": 0.4}
    assert "over 3 seeds" in summary_page(report_of(make_results(*rows, alone))), "one seed has no ±"


def test_the_page_has_every_table_of_every_store_and_number_of_shots(make_results: MakeResults) -> None:
    rows = [
        row | {"test": row["test"] - off}
        for (model, away), (shots, less) in product([("timm:a", 0.0), ("timm:b", 0.05)], [("full", 0.0), ("1", 0.1)])
        for row in layers_of_heads(model=model, shots=shots)
        for off in [away + less]
    ]
    lost = {"model": "timm:b", "shots": "0.1", "status": "diverged in epoch 1", "selected": False}
    page = summary_page(report_of(make_results(*rows, lost))).splitlines()
    assert [line for line in page if line.startswith("#")] == [
        "# 2 backbones and data sets",
        "## timm:a on made",
        "### All training images",
        "### 1 image per class",
        "## timm:b on made",
        "### All training images",
        "### 10 % of the training images",
        "### 1 image per class",
    ]
    at = page.index("## timm:b on made")
    assert page[at + 1 : at + 9] == [
        "",
        "At the layer after @, selected for each head and number of shots:",
        "",
        "| shots | EP, 8 queries | linear probe, mean token | plain |",
        "|--:|--:|--:|--:|",
        "| full | 50.0 @9 | 51.0 @9 | 52.0 @9 |",
        "| 0.1 | diverged |  |  |",
        "| 1 | 40.0 @9 | 41.0 @9 | 42.0 @9 |",
    ]
    tens = [line for line in page[page.index("## timm:a on made") :] if line.startswith("| 10 |")]
    assert tens == [
        "| 10 | 70.0 | 71.0 | 72.0 |",
        "| 10 | 60.0 | 61.0 | 62.0 |",
        "| 10 | 65.0 | 66.0 | 67.0 |",
        "| 10 | 55.0 | 56.0 | 57.0 |",
    ]
    assert page[-4:-2] == ["", "* 1 of 37 cells diverged (base lr 2)"]


def test_the_page_names_both_figures_and_subsets(make_results: MakeResults) -> None:
    several = {"dataset": "several", "val_map": 0.31, "test_map": 0.33, "peak_test_map": 0.36}
    page = summary_page(report_of(make_results({"test": 0.7}, several)))
    assert "\nTest top-1 and test mAP in %: " in page
    low = summary_page(report_of(make_results({"test": 0.7, "shots": "16"})))
    assert "\n### 16 images per class\n" in low and "| shots |" not in low


def test_a_terminal_gets_one_table_of_one_store_on_all_data(make_results: MakeResults) -> None:
    text = printed(make_results(*layers_of_heads()))
    assert titles(text) == ["test top-1 in % (* the layer that the protocol selects)"]
    rows = [line.replace("│", " ").split() for line in text.splitlines() if line.startswith("│")]
    assert rows == [
        ["2", "20.0", "21.0", "22.0"],
        ["9", "55.0", "*", "56.0", "*", "57.0", "*"],
        ["10", "70.0", "71.0", "72.0"],
    ]
    assert [line.partition(": layer 9,")[0] for line in text.splitlines()[-5:-2]] == [
        f"{name}{spec}" for name, spec in zip(LABELS, SPECS, strict=True)
    ]
    assert [line.split(",")[0] for line in text.splitlines()[-2:-1]] == [
        "over the whole grid: the highest peak of any head",
    ]


def test_a_terminal_gets_the_shots_and_the_layers_for_the_most_data_of_each_store(make_results: MakeResults) -> None:
    rows = [
        row
        for model, shots in product(["timm:a", "timm:b"], ["0.5", "16", "2"])
        for row in layers_of_heads(model=model, shots=shots)
    ]
    text = printed(make_results(*rows))
    of_each = [
        "test top-1 in % (@ the layer that the protocol selects)",
        "test top-1 in %, 50 % of the training images (* the layer that the protocol selects)",
    ]
    assert titles(text) == of_each * 2
    assert [line for line in text.splitlines() if line.endswith(" on made")] == ["timm:a on made", "timm:b on made"]
    assert text.count("│   0.5 │") == text.count("│    10 │") == 2
    assert text.count("55.0 @9") == 6 and text.count("(ep:queries=8): layer 9") == 2


def test_a_terminal_gets_means_alone_where_spreads_do_not_fit(make_results: MakeResults) -> None:
    rows = [
        {"layer": str(layer), "head": f"head{head}", "seed": seed, "test": 0.5 + 0.01 * seed}
        for layer, head, seed in product(range(6), range(5), range(2))
    ]
    results = make_results(*rows)
    table = "\n".join(line for line in printed(results, width=200).splitlines() if line.startswith("│"))
    assert table.count("50.5 ± 0.7") == 30
    narrow = [line for line in printed(results, width=80).splitlines() if line.startswith("│")]
    assert "\n".join(narrow).count("50.5") == 30 and "±" not in "\n".join(narrow)
    assert len(narrow) == 5


def test_lines_wrap_at_words_on_a_terminal(make_results: MakeResults) -> None:
    written = StringIO()
    console = Console(width=80, file=written, force_terminal=True, color_system=None)
    print_all(make_results({"test": 0.5}), console)
    lines = [line.rstrip() for line in written.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    assert " 1,383,400 parameters, 21,990,000 FLOP per image" in " ".join(lines)


def test_long_lines_are_whole_in_a_file(make_results: MakeResults) -> None:
    (line,) = [line for line in printed(make_results({"test": 0.5}), width=40).splitlines() if line.startswith("EP, 8")]
    assert line.endswith("1,383,400 parameters, 21,990,000 FLOP per image")


def test_the_answer_and_the_comparison_stand_first(make_results: MakeResults) -> None:
    rows = [row for model in ("timm:a", "timm:b") for row in layers_of_heads(model=model)]
    for row in rows[len(rows) // 2 :]:
        row["test"] -= 0.1
    lines = first_printed(make_results(*rows), width=100)
    assert lines[:2] == [
        "Highest backbone: timm:a, test top-1 55.0 %, EP, 8 queries on layer 9",
        "  timm:b, EP, 8 queries on layer 9: 45.0 %, \N{MINUS SIGN}10.0",
    ]
    assert lines[3] == "test top-1 in %, 2,000 test images (@ the selected layer)"
    cells = [line.replace("│", " ").split()[-4:] for line in lines if line.startswith("│") and "@" in line]
    assert cells == [
        ["55.0", "@9", "45.0", "@9"],
        ["56.0", "@9", "46.0", "@9"],
        ["57.0", "@9", "47.0", "@9"],
    ]


def test_one_head_of_one_backbone_has_nothing_to_compare(make_results: MakeResults) -> None:
    assert first_printed(make_results({"test": 0.5})) == []
