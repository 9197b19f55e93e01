"""The summary's figures against the statistics module and dictionaries."""

import re
import statistics
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from tokenprobe.probe.report import CONTENTS, print_run, write_report
from tokenprobe.probe.report.summary import best_layers, best_lines, layer_table, rich_table, summarise
from tokenprobe.probe.results import Run

HEADS = [("ep", "queries=8"), ("linear", "pool=mean"), ("plain", "")]
SEEDS = (0, 1, 2)


def make_rows(protocol: str = "select", seeds: tuple[int, ...] = SEEDS) -> list[dict[str, Any]]:
    """Layers 2, 9 and 10 of three heads: accuracies are best on layer 9 by val, on layer 10 by test.

    Two cells a seed: the second, with ten times the rate, is selected.
    """
    rows = []
    for number, (head, config) in enumerate(HEADS):
        for layer, val, test in ((2, 0.3, 0.2), (9, 0.8, 0.55), (10, 0.6, 0.7)):
            for seed in seeds:
                for selected in (False, True):
                    off = 0.01 * number + 0.013 * seed * seed - (0 if selected else 0.1)
                    rows.append(
                        {
                            "model": "timm:none",
                            "dataset": "made",
                            "layer": str(layer),
                            "head": head,
                            "head_config": config,
                            "lr": 2.0 if selected else 0.1,
                            "weight_decay": 0.5,
                            "seed": seed,
                            "protocol": protocol,
                            "val_top1": val + off if protocol == "select" else None,
                            "test_top1": test + off,
                            "peak_test_top1": test + off + (0.025 if protocol == "select" else 0),
                            "selected": selected,
                            "n_params": 1_383_400 + number,
                            "flops_forward": 21_990_000,
                        }
                    )
    return rows


def label(head: str, config: str) -> str:
    return f"{head}:{config}" if config else head


@pytest.mark.parametrize("protocol", ["select", "paper"])
@pytest.mark.parametrize("seeds", [SEEDS, (0,)], ids=["three seeds", "one seed"])
def test_means_and_deviations_are_over_the_seeds_of_selected_cells(protocol: str, seeds: tuple[int, ...]) -> None:
    rows = make_rows(protocol, seeds)
    summary = summarise(pd.DataFrame(rows))
    assert len(summary) == 9
    for found in summary.itertuples():
        cells = [
            r for r in rows if (label(r["head"], r["head_config"]), r["layer"]) == (found.head, found.layer)
            and r["selected"]
        ]  # fmt: skip
        test = [r["test_top1"] for r in cells]
        assert found.test_top1 == pytest.approx(statistics.mean(test), abs=1e-12)
        if len(seeds) == 1:
            assert pd.isna(found.test_top1_std)
        else:
            assert found.test_top1_std == pytest.approx(statistics.stdev(test), abs=1e-12)
        assert found.peak_test_top1 == pytest.approx(statistics.mean(r["peak_test_top1"] for r in cells), abs=1e-12)
        if protocol == "select":
            assert found.val_top1 == pytest.approx(statistics.mean(r["val_top1"] for r in cells), abs=1e-12)
        assert {found.lr} == {r["lr"] for r in cells}
        assert (found.weight_decay, found.n_seeds, found.protocol) == (0.5, len(seeds), protocol)
        assert {(found.n_params, found.flops_forward)} == {(r["n_params"], r["flops_forward"]) for r in cells}


def test_the_best_layer_is_chosen_by_val_and_not_by_test() -> None:
    best = best_layers(summarise(pd.DataFrame(make_rows())))
    assert best[["head", "layer"]].to_numpy().tolist() == [
        ["ep:queries=8", "9"],
        ["linear:pool=mean", "9"],
        ["plain", "9"],
    ]
    published = best_layers(summarise(pd.DataFrame(make_rows("paper"))))
    assert published["layer"].tolist() == ["10"] * 3


def test_the_table_is_in_percent_with_layers_in_their_order() -> None:
    table = layer_table(summarise(pd.DataFrame(make_rows(seeds=(0,)))))
    assert table.index.tolist() == ["2", "9", "10"]
    assert table.columns.tolist() == ["ep:queries=8", "linear:pool=mean", "plain"]
    assert table["linear:pool=mean"].tolist() == ["21.0", "56.0", "71.0"]
    spread = layer_table(summarise(pd.DataFrame(make_rows())))
    mean, std = (100 * f([0.2, 0.213, 0.252]) for f in (statistics.mean, statistics.stdev))
    assert spread.loc["2", "ep:queries=8"] == f"{mean:.1f} ± {std:.1f}" == "22.2 ± 2.7"


def test_the_terminals_table_marks_the_selected_layers() -> None:
    console = Console(width=120, file=StringIO())
    console.print(rich_table(summarise(pd.DataFrame(make_rows(seeds=(0,))))))
    lines = [line for line in console.file.getvalue().splitlines() if "│" in line]
    assert [line.count("*") for line in lines] == [0, 3, 0]
    assert re.sub(r"[│\s]+", " ", lines[1]).strip() == "9 55.0 * 56.0 * 57.0 *"


def test_a_line_a_head_says_what_a_peak_on_the_test_split_would_add() -> None:
    assert best_lines(summarise(pd.DataFrame(make_rows(seeds=(1,)))))[0] == (
        "ep:queries=8: layer 9, base lr 2, test top-1 56.3 % (peak over epochs 58.8 %, optimism +2.5); "
        "1,383,400 parameters, 21,990,000 FLOP an image"
    )
    assert "optimism +0.0)" in best_lines(summarise(pd.DataFrame(make_rows("paper"))))[0]


@pytest.mark.parametrize(
    ("protocol", "note"),
    [("select", "are selected on held-out training images"), ("paper", "best epoch on the test split itself, as")],
)
def test_the_summary_page_says_the_protocol_and_the_figures(tmp_path: Path, protocol: str, note: str) -> None:
    run = Run(tmp_path)
    run.results = pd.DataFrame(make_rows(protocol, seeds=(0,)))
    write_report(run)
    lines = (tmp_path / "summary.md").read_text().splitlines()
    assert lines[0] == "# timm:none on made"
    assert note in lines[2]
    assert lines[4:9] == [
        "| layer | ep:queries=8 | linear:pool=mean | plain |",
        "|--:|--:|--:|--:|",
        "| 2 | 20.0 | 21.0 | 22.0 |",
        "| 9 | 55.0 | 56.0 | 57.0 |",
        "| 10 | 70.0 | 71.0 | 72.0 |",
    ]
    assert [line.split(",")[0] for line in lines[10:]] == [
        f"* {label(*head)}: layer {9 if protocol == 'select' else 10}" for head in HEADS
    ]


def test_printing_shows_table_lines_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path)
    run.results = pd.DataFrame(make_rows())
    print_run(run)
    shown = capsys.readouterr().out
    assert "test top-1 in %" in shown and f"{tmp_path}/" in shown
    assert "linear:pool=mean: layer 9, base lr 2, test top-1 58.2 %" in shown
    assert all(f"  {name} " in shown and what in shown for name, what in CONTENTS.items())
