"""The run folder: its tables, what a second run does with it, and the heads in it."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from tokenprobe.errors import InputError, LockedError
from tokenprobe.probe import FitConfig, fit, pipeline
from tokenprobe.probe.run import results
from tokenprobe.probe.run.results import Run, open_run
from tokenprobe.runtime.config_file import read_config_file
from tokenprobe.store import Store, open_store
from tokenprobe.store.durable import write_durably

COLUMNS = [
    "cell", "store", "model", "dataset", "layer", "head", "head_config", "tokens", "n_params", "optimizer", "lr",
    "weight_decay", "batch_size", "epochs", "shots", "seed", "protocol", "val_top1", "test_top1", "test_top5",
    "last_test_top1", "peak_test_top1", "best_epoch", "selected", "train_seconds", "train_cpu_seconds", "flops_forward",
    "flops_train", "test_mean_class", "val_map", "test_map", "last_test_map", "peak_test_map", "val_unscored",
    "test_unscored", "status", "name", "n_val", "n_test", "val_loss", "selected_on",
]  # fmt: skip
TIMES = ["train_seconds", "train_cpu_seconds"]
UNSTABLE = ["store", *TIMES]
HEADS = ["ep:queries=2,d_out=2", "linear:pool=cls", "linear"]


@pytest.fixture
def store(write_store: Callable[..., Store], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Written once; not to be changed."""
    path = tmp_path_factory.getbasetemp() / "results.zarr"
    return open_store(path) if path.exists() else write_made(write_store, path)


def write_made(write_store: Callable[..., Store], path: Path, n_train: int = 48) -> Store:
    labels = {"train": np.arange(n_train) % 3, "test": np.arange(21) % 3}
    tokens = {}
    for seed, (split, y) in enumerate(labels.items()):
        patch = np.random.default_rng(seed).normal(size=(len(y), 4, 8)).astype(np.float16)
        patch[..., :3] += np.eye(3, dtype=np.float16)[y][:, None]
        arrays = {"patch": patch, "prefix": patch[:, :2], "mean": patch.astype(np.float32).mean(1)}
        tokens[split] = {4: arrays, 5: {kind: 2 * values for kind, values in arrays.items()}}
    return write_store(path, tokens, labels, grid=(2, 2), block_rows=8)


def fit_made(store: Store, out: Path, **changes: Any) -> Run:
    settings: dict[str, Any] = {"heads": HEADS, "lr": [0.3], "epochs": 2, "batch_size": 8, "device": "cpu"}
    return fit(store.path, FitConfig(out=out, **settings | changes))


def files_of(run: Run) -> dict[str, bytes]:
    return {str(f.relative_to(run.path)): f.read_bytes() for f in run.path.rglob("*") if f.is_file()}


def test_one_row_a_cell_with_the_promised_columns(store: Store, tmp_path: Path) -> None:
    run = fit_made(store, tmp_path / "run", lr=[0.3, 3.0], weight_decay=[0.0, 0.1], seeds=2)
    results = run.results
    assert list(results) == COLUMNS
    assert len(results) == 2 * 3 * 2 * 2 * 2 and results["cell"].is_unique
    grid = results[["layer", "head", "head_config", "lr", "weight_decay", "seed"]]
    assert not grid.duplicated().any()
    assert set(map(tuple, results[["head", "head_config", "tokens", "n_params"]].to_numpy().tolist())) == {
        ("ep", "queries=2,d_out=2", "patch", 2 * 8 + 4 * 8 + 4 * 3 + 3),
        ("linear", "pool=cls", "prefix", 8 * 3 + 3),
        ("linear", "pool=mean", "mean", 8 * 3 + 3),
    }
    ep = results[results["head"] == "ep"]
    of_tokens, products, classifier = 2 * (2 * 2 * 4 * 8), 2 * 4 * 8, 2 * 4 * 3
    assert set(ep["flops_forward"]) == {of_tokens + products + classifier}
    assert set(ep["flops_train"]) == {2 * of_tokens + 3 * (products + classifier)}
    assert set(results.loc[results["head"] == "linear", "flops_train"]) == {2 * (2 * 8 * 3)}
    shared = {
        "store": str(store.path), "model": "timm:none", "dataset": "made", "optimizer": "lars", "batch_size": 8,
        "epochs": 2, "shots": "full", "protocol": "select", "test_top5": 1.0,
    }  # fmt: skip
    for column, value in shared.items():
        assert set(results[column]) == {value}, column
    assert set(results["layer"]) == {"4", "5"}
    assert (results[TIMES] > 0).all(axis=None) and not results[["val_unscored", "test_unscored"]].any(axis=None)
    # one rate and decay of each (layer, head, seed)
    assert (results.groupby(["layer", "head", "head_config", "seed"])["selected"].sum() == 1).all()
    assert len(run.history) == 2 * len(results) and set(run.history["cell"]) == set(results["cell"])
    assert list(run.history) == ["cell", "epoch", "train_loss", "val_top1", "test_top1", "val_map", "test_map"]


@pytest.mark.parametrize("protocol", ["select", "paper"])
def test_the_text_table_equals_the_binary_one(store: Store, tmp_path: Path, protocol: str) -> None:
    run = fit_made(store, tmp_path / "run", protocol=protocol)
    binary = pd.read_parquet(run.path / "results.parquet")
    pd.testing.assert_frame_equal(binary, run.results)
    text = pd.read_csv(run.path / "results.csv", dtype={"layer": str, "shots": str, "name": str}).fillna({"name": ""})
    pd.testing.assert_frame_equal(text.astype(binary.dtypes), binary, rtol=1e-15)
    pd.testing.assert_frame_equal(pd.read_parquet(run.path / "history.parquet"), run.history)


@pytest.mark.usefixtures("messages")
def test_the_same_command_again_trains_nothing_and_changes_nothing(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fit_made(store, tmp_path / "run")
    before = files_of(first)
    assert first.finished == set(first.results["cell"])
    capsys.readouterr()
    again = fit_made(store, tmp_path / "run")
    assert again.finished == first.finished
    assert "nothing to train" in capsys.readouterr().err
    assert files_of(again) == before
    assert {"results.csv", "results.parquet", "history.parquet", "summary.md", "config.yaml"} <= set(before)


@pytest.mark.usefixtures("messages")
@pytest.mark.parametrize("protocol", ["select", "paper"])
def test_another_rate_trains_only_that_and_selects_again(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str
) -> None:
    first = fit_made(store, tmp_path / "run", lr=[1e-4], epochs=8, protocol=protocol, val=0.4).results
    assert first["selected"].all()
    kept = {cell: (tmp_path / f"run/heads/{cell}.safetensors").stat().st_mtime_ns for cell in first["cell"]}
    capsys.readouterr()
    second = fit_made(store, tmp_path / "run", lr=[1e-4, 10.0], epochs=8, protocol=protocol, val=0.4).results
    assert "6 cells to train" in capsys.readouterr().err
    assert len(second) == 12 and second["cell"].is_unique
    old = second[second["lr"] == 1e-4].reset_index(drop=True)
    assert old.drop(columns="selected").equals(first.drop(columns="selected"))
    assert {c: (tmp_path / f"run/heads/{c}.safetensors").stat().st_mtime_ns for c in kept} == kept
    figure = "val_top1" if protocol == "select" else "test_top1"
    for _, swept in second.groupby(["layer", "head", "head_config"]):
        assert swept["selected"].sum() == 1
        assert swept.loc[swept["selected"], figure].item() == swept[figure].max()
    assert (second["lr"] == 10)[second["selected"]].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 3}, "epochs: stored 2, asked 3"),
        (
            {"epochs": 3, "warmup_epochs": 0.5},
            "epochs: stored 2, asked 3; warmup_epochs: stored 0.2222222222222222, asked 0.5",
        ),
        ({"batch_size": 16}, "batch_size: stored 8, asked 16"),
        ({"min_steps": 9, "seed": 1}, "min_steps: stored 0, asked 9; seed: stored 0, asked 1"),
        ({"warmup_epochs": 0.5}, "warmup_epochs: stored 0.2222222222222222, asked 0.5"),
        ({"protocol": "paper"}, "protocol: stored 'select', asked 'paper'"),
        ({"val": 0.2}, "val: stored 0.1, asked 0.2"),
        ({"amp": "bfloat16"}, "amp: stored 'off', asked 'bfloat16'"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_other_settings_in_the_same_folder_are_refused(
    store: Store, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    before = files_of(fit_made(store, tmp_path / "run", heads=["linear"], layers="5"))
    expected = rf"run '.*/run' was made with other settings \({message}\); give another --out"
    with pytest.raises(InputError, match=expected):
        fit_made(store, tmp_path / "run", heads=["linear"], layers="5", **changes)
    assert files_of(Run(tmp_path / "run")) == before


def test_a_run_that_is_older_than_a_setting_goes_on_with_its_default(store: Store, tmp_path: Path) -> None:
    run = fit_made(store, tmp_path / "run", heads=["linear"], layers="5")
    content = yaml.safe_load((run.path / "config.yaml").read_text())
    for key in ("clip_grad", "class_weights", "noise", "noise_prob"):
        del content["made_from"]["shared"][key], content[key]
    (run.path / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"\(noise: stored 0.0, asked 0.1\)"):
        fit_made(store, tmp_path / "run", heads=["linear"], layers="4", noise=0.1)
    assert len(fit_made(store, tmp_path / "run", heads=["linear"], layers="4").results) == 2 * len(run.results)


def test_a_warmup_that_was_given_is_told_from_another_default(store: Store, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"heads": ["linear"], "layers": "5", "epochs": 9}
    fit_made(store, tmp_path / "run", **settings, warmup_epochs=1)
    fit_made(store, tmp_path / "run", **settings)  # a ninth is the default
    fit_made(store, tmp_path / "other", **settings, warmup_epochs=2.0)
    with pytest.raises(InputError, match=r"\(epochs: stored 9, asked 36; warmup_epochs: stored 2.0, asked 4.0\)"):
        fit_made(store, tmp_path / "other", **settings | {"epochs": 36})


@pytest.mark.usefixtures("messages")
def test_a_moved_store_has_been_fitted_already(
    store: Store, write_store: Callable[..., Store], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = write_made(write_store, tmp_path / "moved.zarr")
    fit_made(store, tmp_path / "run", heads=["linear"])
    assert len(fit_made(moved, tmp_path / "run", heads=["linear"]).results) == 2
    assert "nothing to train" in capsys.readouterr().err
    swept = fit_made(moved, tmp_path / "run", heads=["linear"], lr=[0.3, 3.0]).results
    assert swept.groupby("layer")["selected"].sum().tolist() == [1, 1]  # among rates of either path
    assert (tmp_path / "run" / "summary.md").read_text().startswith("# timm:none on made\n")


def test_two_runs_agree_in_everything_but_path_and_time(
    store: Store, write_store: Callable[..., Store], tmp_path: Path
) -> None:
    moved = write_made(write_store, tmp_path / "moved.zarr")
    one, two = fit_made(store, tmp_path / "one"), fit_made(moved, tmp_path / "two")
    pd.testing.assert_frame_equal(one.results.drop(columns=UNSTABLE), two.results.drop(columns=UNSTABLE))
    pd.testing.assert_frame_equal(one.history, two.history)
    first, second = files_of(one), files_of(two)
    assert set(first) == set(second)
    differing = {name for name in first if first[name] != second[name]}
    of_time = {"results.csv", "results.parquet", "tables/cost.csv", "tables/cost.tex", "report.html"}
    assert differing <= of_time | {"config.yaml"}


def test_the_config_of_a_run_makes_the_same_run(store: Store, tmp_path: Path) -> None:
    one = fit_made(store, tmp_path / "one", lr=[], layers="-1", warmup_epochs=None, val=0.2)
    content = yaml.safe_load((one.path / "config.yaml").read_text())
    assert (content["warmup_epochs"], content["layers"], len(content["lr"])) == (2 / 9, "5", 6)
    assert content["made_from"]["batch_sizes"] == {"full": 8}
    fields = read_config_file(FitConfig, str(one.path / "config.yaml")) | {"out": tmp_path / "two"}
    two = fit(store.path, FitConfig(**fields))
    pd.testing.assert_frame_equal(one.results.drop(columns=TIMES), two.results.drop(columns=TIMES))
    assert len(fit(store.path, FitConfig(**fields | {"out": one.path})).results) == len(one.results)


def test_the_config_of_a_run_tells_of_all_commands_that_made_it(store: Store, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = [
        {"heads": ["linear"], "layers": "5"},
        {"heads": ["ridge"], "lr": [0.3, 3.0], "optimizer": "sgd"},
    ]
    for changes in (*asked, asked[0], asked[1]):
        run = fit_made(store, tmp_path / "run", **changes)
    text = (run.path / "config.yaml").read_text()
    content = yaml.safe_load(text)
    assert "&" not in text  # no anchors
    assert content["heads"] == ["ridge:pool=mean"]
    grid = {
        "stores": ["none"], "shots": ["full"], "fraction": [], "weight_decay": [0.0], "seeds": 1,
        "train_split": "train", "val_split": None, "test_split": "test", "test_store": None,
    }  # fmt: skip
    assert content["made_from"]["commands"] == [
        grid | {"heads": ["linear:pool=mean"], "layers": "5", "lr": [0.3], "optimizer": "lars"},
        grid | {"heads": ["ridge:pool=mean"], "layers": "4,5", "lr": [0.3, 3.0], "optimizer": "sgd"},
    ]


def test_a_run_killed_between_its_files_keeps_no_epoch_twice(store: Store, tmp_path: Path) -> None:
    """The history of layer 5 is there, its results are not yet."""
    run = fit_made(store, tmp_path / "run", layers="4")
    unfinished = {name: (run.path / name).read_bytes() for name in ("results.csv", "results.parquet")}
    whole = fit_made(store, tmp_path / "run", layers="4,5").history
    for name, content in unfinished.items():
        (run.path / name).write_bytes(content)
    again = fit_made(store, tmp_path / "run", layers="4,5")
    assert len(again.results) == 6
    pd.testing.assert_frame_equal(again.history, whole)


@pytest.mark.parametrize("n_files", range(4))
def test_a_run_killed_after_any_of_its_files_has_the_history_of_every_finished_cell(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_files: int
) -> None:
    """What is finished is not trained again, so that nothing would bring its history back."""
    whole = fit_made(store, tmp_path / "whole", heads=["linear"])
    rows, history = (table.to_dict("records") for table in (whole.results, whole.history))
    written: list[Path] = []

    def write_or_be_killed(path: Path, content: bytes) -> None:
        if len(written) == n_files:
            raise KeyboardInterrupt
        write_durably(path, content)
        written.append(path)

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(results, "write_durably", write_or_be_killed)
    with suppress(KeyboardInterrupt):
        Run(tmp_path / "run").add(rows, history)
    assert len(written) == min(n_files, 3)
    found = Run(tmp_path / "run")
    assert found.finished <= set(found.history.get("cell", []))
    assert (found.finished == whole.finished) == (n_files >= 3)


def test_a_folder_without_results_is_taken(store: Store, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("epochs: 7\n")
    assert len(fit_made(store, tmp_path / "run", heads=["linear"]).results) == 2


def test_two_fits_do_not_share_a_folder_at_once(tmp_path: Path) -> None:
    with open_run(tmp_path / "run"):
        other = open_run(tmp_path / "run")
        with pytest.raises(LockedError, match="is being written by process"):
            other.__enter__()


def test_cells_that_another_fit_finished_meanwhile_are_not_trained_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other fit ends between the plan of this one and its lock."""
    opened = open_run

    def open_late(path: Path) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(pipeline, "open_run", opened)
            fit_made(store, tmp_path / "run", heads=["linear"])
        return opened(path)

    monkeypatch.setattr(pipeline, "open_run", open_late)
    run = fit_made(store, tmp_path / "run", heads=["linear", "linear:pool=cls"])
    assert run.results["cell"].is_unique and len(run.results) == 4
