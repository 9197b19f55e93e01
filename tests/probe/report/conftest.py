"""Rows of a results table, made without a fit."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

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
