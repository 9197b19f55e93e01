"""The contents of a report over several runs: which backbones are one, and what is known of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenprobe.errors import MissingError, RunError
from tokenprobe.probe.report.config import ReportConfig
from tokenprobe.probe.report.contents import Report, gather
from tokenprobe.probe.report.write import make_report as write
from tokenprobe.probe.run.results import Run
from tokenprobe.store import Store, open_store

from ..kit import LABELS, fit_made, write_made

SETTINGS: dict[str, Any] = {"layers": "1", "lr": [1.0], "epochs": 2}


@pytest.fixture(scope="module")
def runs(write_store: Callable[..., Store], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Two heads on one store, in two runs; a copy of the store; and a run of other settings."""
    folder = tmp_path_factory.mktemp("runs")
    store = write_made(write_store, folder / "s.zarr")
    made = {
        "linear": fit_made(store, folder / "linear", heads=["linear"], **SETTINGS),
        "knn": fit_made(store, folder / "knn", heads=["knn:k=5", "linear"], **SETTINGS),
        "longer": fit_made(store, folder / "longer", heads=["ridge"], **SETTINGS | {"epochs": 3}),
    }
    return {name: Run(run.path) for name, run in made.items()}


def test_one_store_in_two_runs_is_one_backbone(runs: dict[str, Run]) -> None:
    report = gather([runs["linear"], runs["knn"]])
    assert report.sources == ["timm:none on made"]
    assert report.leaders["head"].tolist() == ["linear probe, mean token", "k-NN, k = 5"]
    assert len(report.cells) == 2, "the cell that both runs have is there once"
    assert report.leaders["behind_low"].notna().sum() == 1, "the two runs are paired by image"
    assert not [line for line in report.warnings if "settings" in line]
    assert report.leaders["n_test"].tolist() == [len(LABELS["test"])] * 2


def test_runs_of_other_settings_are_heads_of_one_backbone(runs: dict[str, Run]) -> None:
    """Ridge regression reads no epochs, so these two runs have no setting that differs."""
    report = gather([runs["linear"], runs["longer"]])
    assert report.sources == ["timm:none on made"]
    assert report.leaders["head"].tolist() == ["linear probe, mean token", "ridge regression, mean token"]
    assert {"best head", "highest head", "no single best head"} & {report.answers[0].partition(":")[0].lower()}
    assert not [line for line in report.warnings if "settings" in line]
    assert report.leaders["behind_low"].notna().sum() == 1


def test_a_head_of_other_settings_is_named_with_its_run(runs: dict[str, Run], tmp_path: Path) -> None:
    """It is no other seed of the first. The same solver in both runs is there once."""
    store = Path(runs["linear"].results["store"].iloc[0])
    other = fit_made(open_store(store), tmp_path / "other", heads=["linear", "ridge"], **SETTINGS | {"epochs": 3})
    report = gather([runs["linear"], runs["longer"], other])
    paths = [str(run.path) for run in (runs["linear"], other)]
    assert report.sources == ["timm:none on made"]
    linear = report.summary[report.summary["kind"] == "linear"]
    assert linear["head"].tolist() == [f"linear probe, mean token of {path}" for path in paths]
    assert linear["n_seeds"].tolist() == [1, 1] and linear["test_std"].isna().all()
    assert linear["test"].tolist() == [
        run.results["test_top1"][run.results["head"] == "linear"].iloc[0] for run in (runs["linear"], other)
    ]
    assert linear["look"].tolist() == ["linear:pool=mean", "linear:pool=mean #1"]
    assert set(linear["spec"]) == {"linear:pool=mean"}
    assert report.cells["head"].str.startswith("ridge").sum() == len(runs["longer"].results)
    assert report.warnings[0] == "the runs were made with different settings: epochs 2 and 3"


def test_two_optimizers_are_choices_of_one_head(write_store: Callable[..., Store], tmp_path: Path) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    for optimizer, rates in (("lars", [1.0, 30.0]), ("adamw", [1e-5, 0.01])):
        fit_made(store, tmp_path / "run", heads=["linear"], optimizer=optimizer, **SETTINGS | {"lr": rates})
    results = Run(tmp_path / "run").results
    row = gather([Run(tmp_path / "run")]).summary.iloc[0]
    assert (row["n_seeds"], row["n_choices"], row["n_optimizers"]) == (1, 4, 2) and np.isnan(row["test_std"])
    chosen = results[results["selected"]]
    assert chosen["val_top1"].tolist() == [results["val_top1"].max()]
    assert chosen[["optimizer", "lr", "test_top1"]].to_numpy().tolist() == [[row["optimizer"], row["lr"], row["test"]]]


def test_a_run_without_results_is_named(tmp_path: Path, runs: dict[str, Run]) -> None:
    with pytest.raises(MissingError, match="has no results; make some with probe fit, or wait for its first layer"):
        gather([Run(tmp_path)])


def test_the_confusion_counts_the_images_of_the_selected_head(make_report: Callable[..., Report]) -> None:
    report = make_report({"test": 0.5, "val_top1": 0.9}, {"head": "aim", "test": 0.7, "val_top1": 0.3})
    (source,) = report.sources
    found = report.confusion(source)
    assert found is not None and (found.head, found.layer) == ("EP, 8 queries", "0")
    expected = np.zeros((4, 4))
    for image in range(200):  # the first half is right, the others are taken for the next class
        expected[image % 4, image % 4 if image < 100 else (image + 1) % 4] += 1
    assert found.counts.tolist() == expected.tolist()
    assert found.classes == [f"class {number}" for number in range(4)]
    assert report.chance(source) == 0.25


def test_seeds_share_a_confusion(make_report: Callable[..., Report]) -> None:
    report = make_report({"test": 0.5}, {"test": 1.0, "seed": 1})
    found = report.confusion(report.sources[0])
    assert found is not None and found.counts.sum() == 200 and np.trace(found.counts) == 150


def test_without_predictions_there_is_no_confusion_and_no_chance(make_report: Callable[..., Report]) -> None:
    report = make_report({"test": 0.5}, keeps=False)
    assert report.confusion(report.sources[0]) is None and np.isnan(report.chance(report.sources[0]))


def test_changed_predictions_are_refused(runs: dict[str, Run], tmp_path: Path) -> None:
    results = runs["longer"].results
    cell = results["cell"][results["selected"] & (results["head"] == "ridge")].iloc[0]
    file = runs["longer"].path / "predictions" / f"{cell}.parquet"
    content = file.read_bytes()
    try:
        file.write_bytes(content[:-1])
        with pytest.raises(RunError, match=r"ridge.*is damaged"):
            write([runs["longer"].path], ReportConfig(out=tmp_path / "report"))
        assert not (tmp_path / "report").exists()
    finally:
        file.write_bytes(content)


def test_the_history_is_that_of_selected_cells(runs: dict[str, Run]) -> None:
    report = gather([runs["linear"], runs["knn"]])
    assert report.history["epoch"].tolist() == [1, 2]
    assert set(report.history["head"]) == {"linear probe, mean token"}


def test_of_two_optimizers_one_is_selected_although_an_earlier_version_selected_one_of_each(
    make_report: Callable[..., Report],
) -> None:
    report = make_report({"test": 0.6}, {"test": 0.7, "optimizer": "adamw"})
    assert report.cells.set_index("optimizer")["selected"].to_dict() == {"lars": False, "adamw": True}
    assert report.summary["n_seeds"].tolist() == [1]
