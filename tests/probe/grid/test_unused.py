"""Settings of training by steps that solvers ignore are named, in the log and in the report."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenprobe.probe.grid.unused import unused_settings
from tokenprobe.probe.presets import load_preset
from tokenprobe.store import Store

from ..kit import fit_made, write_made

ON = {"class_weights": "balanced", "noise": 5.0, "clip_grad": 1.0, "epochs": 3}
ONE = [
    "--class-weights balanced has no effect on logreg, fitted at once and not by steps: it weighs all images alike",
    "--noise 5 has no effect on logreg, fitted at once and not by steps",
    "--clip-grad 1 has no effect on logreg, fitted at once and not by steps",
]


def test_one_line_per_setting_that_is_on_and_not_used() -> None:
    assert list(unused_settings(ON, ["ep", "logreg", "logreg"])) == ONE
    assert list(unused_settings(ON, ["ep", "linear"])) == []
    assert list(unused_settings({"class_weights": "none", "noise": 0.0, "clip_grad": None}, ["logreg"])) == []
    assert list(unused_settings({}, ["logreg"])) == [], "a run of an earlier version"
    (both,) = unused_settings({"class_weights": "balanced"}, ["ridge", "knn"])
    assert both == (
        "--class-weights balanced has no effect on knn and ridge, fitted at once and not by steps: "
        "they weigh all images alike"
    )


def test_a_preset_sets_them_too() -> None:
    assert [line.split()[0] for line in unused_settings(load_preset("alf").settings, ["logreg"])] == [
        "--class-weights",
        "--noise",
        "--clip-grad",
    ]


def test_the_log_and_the_report_say_so(
    write_store: Callable[..., Store], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    with caplog.at_level(logging.WARNING):
        run = fit_made(store, tmp_path / "run", heads=["logreg"], layers="1", **ON)
    assert [record.getMessage() for record in caplog.records if "no effect" in record.getMessage()] == ONE
    summary = (run.path / "summary.md").read_text()
    assert all(f"* {line}\n" in summary for line in ONE)
