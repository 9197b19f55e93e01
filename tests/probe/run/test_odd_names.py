"""Names that others give: paths that are no UTF-8, and data sets named as formulas."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from tokenprobe.probe.report import print_run
from tokenprobe.store import Store, open_store

from ..kit import fit_made, rewrite_root, write_made


def test_a_run_of_a_store_whose_path_is_no_utf8(write_store: Callable[..., Store], tmp_path: Path) -> None:
    """Paths on Linux are bytes: those of archives from elsewhere often are no UTF-8."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    train, test = (write_made(write_store, folder / name) for name in ("s.zarr", "t.zarr"))
    for layers in ("0", "0,1"):
        run = fit_made(train, folder / "run", heads=["linear"], layers=layers, lr=[1.0], test_store=test.path)
    print_run(run)
    text = str(tmp_path / r"caf\xe9" / "s.zarr")
    assert len(run.results) == 2 and set(run.results["store"]) == {text}
    assert set(pd.read_csv(run.path / "results.csv")["store"]) == {text}


def test_the_text_table_holds_no_formula_and_the_binary_one_the_name(
    write_store: Callable[..., Store], tmp_path: Path
) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    rewrite_root(store, replace(store.manifest, dataset="=HYPERLINK(1)"))
    run = fit_made(open_store(store.path), tmp_path / "run", heads=["linear"], layers="0", lr=[1.0])
    assert set(pd.read_csv(run.path / "results.csv")["dataset"]) == {"'=HYPERLINK(1)"}
    assert set(pd.read_parquet(run.path / "results.parquet")["dataset"]) == {"=HYPERLINK(1)"}
