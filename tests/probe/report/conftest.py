"""Rows of a results table, made without a fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tokenprobe.probe.report.contents import Report, gather
from tokenprobe.probe.run.predictions import write_predicted
from tokenprobe.probe.run.results import Run
from tokenprobe.probe.run.tables import table_bytes

NAN = float("nan")
ROW: dict[str, Any] = {
    "cell": "none-layer_00-made",
    "store": "made.zarr",
    "model": "timm:none",
    "dataset": "made",
    "layer": "0",
    "head": "ep",
    "head_config": "queries=8",
    "tokens": "patch",
    "n_params": 1_383_400,
    "optimizer": "lars",
    "lr": 2.0,
    "weight_decay": 0.0,
    "batch_size": 32,
    "epochs": 90,
    "shots": "full",
    "seed": 0,
    "protocol": "select",
    "val_top1": NAN,
    "test_top1": NAN,
    "test_top5": NAN,
    "last_test_top1": NAN,
    "peak_test_top1": NAN,
    "best_epoch": 90,
    "selected": True,
    "train_seconds": 1.0,
    "train_cpu_seconds": 1.0,
    "flops_forward": 21_990_000,
    "flops_train": 65_970_000,
    "test_mean_class": NAN,
    "val_map": NAN,
    "test_map": NAN,
    "last_test_map": NAN,
    "peak_test_map": NAN,
    "val_unscored": 0,
    "test_unscored": 0,
    "status": "trained",
    "name": "",
    "n_val": 500,
    "n_test": 2000,
    "val_loss": NAN,
    "selected_on": "",
}
TYPES = {
    "n_params": "Int64",
    "flops_forward": "Int64",
    "val_unscored": "Int64",
    "test_unscored": "Int64",
    "n_val": "Int64",
    "n_test": "Int64",
    "lr": float,
    "weight_decay": float,
    "head_config": "str",
}


@pytest.fixture
def make_results() -> Callable[..., pd.DataFrame]:
    """Make a results table of rows given by what differs from a trained, selected cell of one head.

    `test` is short for test_top1, and sets val_top1 and peak_test_top1 to the same unless they are given.
    """

    def make(*rows: dict[str, Any]) -> pd.DataFrame:
        filled = []
        for row in rows:
            test = row.get("test", NAN)
            figures = {"test_top1": test, "val_top1": test, "peak_test_top1": test}
            filled.append(ROW | figures | {key: value for key, value in row.items() if key != "test"})
        return pd.DataFrame(filled).astype(TYPES)

    return make


N_IMAGES, N_CLASSES = 200, 4
LABELS = np.arange(N_IMAGES) % N_CLASSES


@pytest.fixture
def make_report(make_results: Callable[..., pd.DataFrame], tmp_path: Path) -> Callable[..., Report]:
    """Make the report of one run from rows as for `make_results`. The run keeps what its selected cells predict.

    `test` must be a multiple of 1/200, the number of test images. Cells of different figures are right on nested sets
    of images but for a few that `shift` exchanges, a number of images.
    """

    def make(*rows: dict[str, Any], history: pd.DataFrame | None = None, keeps: bool = True) -> Report:
        cells = [{"cell": f"none-layer_00-{number}", "n_test": N_IMAGES} | row for number, row in enumerate(rows)]
        run = Run(tmp_path / "run")
        run.results = make_results(*({key: row[key] for key in row if key != "shift"} for row in cells))
        if history is not None:
            run.history = history
        if keeps:
            keep_predictions(run.path, cells)
        return gather([run])

    return make


def keep_predictions(run: Path, cells: list[dict[str, Any]]) -> None:
    """Write test images, and for each cell with a figure classes that are right as often as it says."""
    folder = run / "predictions"
    folder.mkdir(parents=True)
    images = pd.DataFrame({"id": [f"image {number}" for number in range(N_IMAGES)], "label": LABELS})
    for store in {row["cell"].rpartition("-layer_")[0] for row in cells}:
        (folder / f"{store}.images.parquet").write_bytes(table_bytes(images.astype({"id": "str"})))
        classes = pd.DataFrame({"class": [f"class {number}" for number in range(N_CLASSES)]}).astype("str")
        (folder / f"{store}.classes.parquet").write_bytes(table_bytes(classes))
    for row in cells:
        if row.get("selected", True) and "test" in row:
            places = (np.arange(N_IMAGES) + row.get("shift", 0)) % N_IMAGES
            write_predicted(
                run, row["cell"], np.where(places < round(row["test"] * N_IMAGES), LABELS, (LABELS + 1) % 4)
            )
