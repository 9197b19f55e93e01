"""The values of the page, compared with the report that its tables show."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tokenprobe.probe.report.contents import Report
from tokenprobe.probe.report.html.payload import payload
from tokenprobe.probe.report.tables import cost_table
from tokenprobe.probe.report.write import write_text

MakeReport = Callable[..., Report]


def column(content: dict[str, Any], name: str) -> list[Any]:
    found = next(each for each in content["table"]["columns"] if each["name"] == name)
    return [found["words"][code] for code in found["codes"]] if found["kind"] == "text" else found["values"]


def test_the_table_has_every_cell(report: Report) -> None:
    content, results = payload(report), report.runs[0].results
    assert content["table"]["n"] == len(results) == 36
    assert column(content, "cell") == results["cell"].tolist()
    np.testing.assert_allclose(column(content, "test"), 100 * results["test_top1"], atol=1e-6)
    assert column(content, "lr") == results["lr"].tolist()
    assert column(content, "selected") == ["yes" if each else "no" for each in results["selected"]]
    assert column(content, "shots") == results["shots"].tolist()


def test_words_stand_in_their_order(make_report: MakeReport) -> None:
    layers, shots = ["10", "9", "stack:0+1", "8+9"], ["4", "full", "16", "0.1"]
    rows = [{"test": 0.5, "layer": layer, "shots": each} for layer, each in zip(layers, shots, strict=True)]
    words = {each["name"]: each.get("words") for each in payload(make_report(*rows))["table"]["columns"]}
    assert words["layer"] == ["9", "10", "8+9", "stack:0+1"] and words["shots"] == ["full", "0.1", "16", "4"]


def test_a_value_of_all_cells_is_written_once(report: Report) -> None:
    content = payload(report)
    same, names = dict(content["table"]["same"]), [each["name"] for each in content["table"]["columns"]]
    assert same["Seed"] == "0" and same["Optimizer"] == "lars"
    assert not {"seed", "optimizer", "run", "status"} & set(names)
    assert {"head", "layer", "val", "test", "selected", "cell"} <= set(names)


def test_points_are_those_of_the_tables(report: Report, tmp_path: Path) -> None:
    write_text(report, tmp_path)
    points = pd.DataFrame(payload(report)["points"])
    layers = pd.read_csv(tmp_path / "tables" / "layers.csv", dtype={"layer": str})
    key = ["head", "shots", "layer"]
    both = points.merge(layers, on=key, suffixes=("", "_table"))
    assert len(both) == len(points) == len(layers) == 18
    np.testing.assert_allclose(both["test"], 100 * both["test_table"], atol=1e-6)
    leaders = pd.read_csv(tmp_path / "tables" / "shots.csv", dtype={"layer": str})
    best = points[points["best"]].merge(leaders, on=key, suffixes=("", "_table"))
    assert len(best) == len(leaders) == 6
    np.testing.assert_allclose(np.array(best["interval"].tolist()), 100 * best[["low", "high"]], atol=1e-6)
    costs = best.merge(pd.read_csv(tmp_path / "tables" / "cost.csv"), on=["head", "shots"], suffixes=("", "_table"))
    assert costs["n_params"].tolist() == costs["n_params_table"].tolist() and len(costs) == 6
    assert costs["flops"].tolist() == costs["flops_forward"].tolist()
    assert best["cells"].tolist() == [[f"none-layer_02-{row.kind}-{row.shots}-1.0"] for row in named(best)]


def named(best: pd.DataFrame) -> list[Any]:
    return list(best.assign(kind=best["spec"].str.partition(":")[0]).itertuples())


def test_the_front_holds_what_no_cheaper_head_beats(report: Report) -> None:
    front = [
        (each["head"], each["shots"]) for each in payload(report)["points"] if "n_params" in each["front"]
    ]  # of the two heads with 1,290 parameters, the linear probe is the better
    assert front == [(head, shots) for head in ("EP, 8 queries", "linear probe, mean token") for shots in ("full", "4")]
    costs = cost_table(report.leaders[report.leaders["shots"] == "full"])
    assert set(costs.loc[[head for head, _ in front], "parameters"]) == {"18,698", "1,290"}


def test_curves_are_of_selected_cells_at_selected_layers(report: Report) -> None:
    curves = payload(report)["curves"]
    assert sorted(each["cell"] for each in curves) == sorted(
        f"none-layer_02-{head}-{shots}-1.0" for head in ("ep", "linear", "ridge") for shots in ("full", "4")
    )
    history = report.runs[0].history
    for each in curves:
        rows = history[history["cell"] == each["cell"]]
        assert each["epoch"] == rows["epoch"].tolist() == [1, 2, 3] and each["best_epoch"] == 2
        np.testing.assert_allclose(each["figure"], 100 * rows["val_top1"], atol=1e-6)
        np.testing.assert_allclose(each["loss"], rows["train_loss"], atol=1e-6)


def test_confused_classes_are_those_of_the_matrix(report: Report) -> None:
    content, confusion = payload(report), report.confusion(report.sources[0])
    assert confusion is not None
    found = {(each["label"], each["predicted"]): each["images"] for each in content["confused"]}
    wrong = {
        (one, other): confusion.counts[row, column]
        for row, one in enumerate(confusion.classes)
        for column, other in enumerate(confusion.classes)
        if row != column and confusion.counts[row, column]
    }
    assert found == pytest.approx(wrong) and {each["of"] for each in content["confused"]} == {50}
    images = [each["images"] for each in content["confused"]]
    assert images == sorted(images, reverse=True)


def test_what_is_unknown_is_null(make_report: MakeReport) -> None:
    content = payload(make_report({"test": 0.5}, {"head": "aim", "status": "diverged", "selected": False}, keeps=False))
    json.dumps(content, allow_nan=False)
    assert column(content, "test") == [50.0, None]
    assert [(each["interval"], each["std"]) for each in content["points"]] == [(None, None)]
    assert content["sources"][0]["chance"] is None and content["confused"] == [] and content["curves"] == []


def test_several_seeds_have_their_spread(make_report: MakeReport) -> None:
    (point,) = payload(make_report({"test": 0.5}, {"test": 0.6, "seed": 1}))["points"]
    assert point["n_seeds"] == 2 and (point["test"], point["std"]) == pytest.approx((55, 10 / 2**0.5), abs=1e-9)
    assert point["cells"] == ["none-layer_00-0", "none-layer_00-1"]


def test_names_from_files_are_printable(make_report: MakeReport) -> None:
    content = payload(make_report({"test": 0.5, "dataset": "a\u202eb"}))
    assert dict(content["table"]["same"])["Data set"] == content["sources"][0]["dataset"] == "a\\u202eb"
