"""The commands on the page make the same cells: the real command line is asked."""

import logging
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenprobe.cli import main
from tokenprobe.probe import FitConfig, fit
from tokenprobe.probe.report.html.commands import describe_runs
from tokenprobe.store import Store

from ...kit import write_made


def test_the_commands_leave_nothing_to_train(
    write_store: Callable[..., Store], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, folder = write_made(write_store, tmp_path / "a store; it's.zarr"), tmp_path / "a run"
    settings: dict[str, Any] = {
        "heads": "ep:queries=2,d_out=2,ridge",
        "epochs": 2,
        "device": "cpu",
        "out": folder,
        "seeds": 2,
    }
    fit(f"odd name={store.path}", FitConfig(**settings, lr=[1.0, 1e-7], weight_decay=[0.1], warmup_epochs=1 / 3))
    run = fit(store.path, FitConfig(**settings | {"heads": "knn", "fraction": [0.5]}, warmup_epochs=1 / 3))
    (known,) = describe_runs([run])
    assert known["path"] == str(folder) and known["config"] == (folder / "config.yaml").read_text()
    *fits, report = map(shlex.split, known["commands"])
    assert report == ["probe", "report", str(folder)] and len(fits) == 2
    for command in fits:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert main([*command[1:], "--device", "cpu"]) == 0
        assert "nothing to train" in caplog.text


def test_a_run_without_an_origin_has_its_report_alone(tmp_path: Path) -> None:
    from tokenprobe.probe.run.results import Run

    assert describe_runs([Run(tmp_path)]) == [
        {"path": str(tmp_path), "config": "", "commands": [shlex.join(["probe", "report", str(tmp_path)])]}
    ]
