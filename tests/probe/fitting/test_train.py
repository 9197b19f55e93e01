"""The same run, whatever keeps the tokens, however often it was stopped, however its cells were packed."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.batches.subsets import subset
from tokenprobe.probe.fitting.checkpoint import Checkpoint
from tokenprobe.probe.fitting.group_fit import start_fit
from tokenprobe.probe.fitting.progress import FitProgress
from tokenprobe.probe.fitting.result_rows import group_rows
from tokenprobe.probe.grid.cells import CellGroup
from tokenprobe.probe.planning.layer_plan import USABLE, memory_of
from tokenprobe.probe.planning.machine import Machine
from tokenprobe.probe.planning.plan import Plan
from tokenprobe.probe.planning.settings import identity
from tokenprobe.probe.run.results import Run
from tokenprobe.probe.training.group import Group
from tokenprobe.store import Store

from ..kit import assert_same, fit_made, plain_training, plan_of, rewrite_root, write_made

EVERYTHING: dict[str, Any] = {
    "heads": ["ep:queries=4", "linear", "dolg", "knn:k=2|5", "ridge"],
    "shots": ["full", "4"],
    "seeds": 2,
    "layers": "1",
    "epochs": 3,
    "lr": [1.0, 1e30],  # the second diverges
}


@pytest.fixture
def store(write_store: Callable[..., Store], tmp_path: Path) -> Store:
    return write_made(write_store, tmp_path / "s.zarr")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_memory_and_disk_zarr_and_hdf5_give_the_same_run(
    write_store: Callable[..., Store], tmp_path: Path, dtype: str
) -> None:
    stores = {suffix: write_made(write_store, tmp_path / f"s.{suffix}", dtype=dtype) for suffix in ("zarr", "h5")}
    whole = fit_made(stores["zarr"], tmp_path / "run", cache="ram", **EVERYTHING)
    assert whole.results["status"].str.startswith("diverged").sum() == 3 * (2 + 2)
    assert_same(whole, fit_made(stores["zarr"], tmp_path / "disk", cache="disk", **EVERYTHING))
    assert_same(whole, fit_made(stores["h5"], tmp_path / "hdf5", cache="disk", **EVERYTHING))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_keeps_the_same_tokens(store: Store, tmp_path: Path) -> None:
    runs = [fit_made(store, tmp_path / c, cache=c, device="cuda", amp="off") for c in ("gpu", "ram", "disk")]
    for other in runs[1:]:
        assert runs[0].history["train_loss"].to_numpy() == pytest.approx(other.history["train_loss"].to_numpy())


FEW: dict[str, Any] = EVERYTHING | {"heads": ["ep:queries=4", "knn:k=2"], "layers": "all"}
STOPS = [*((Checkpoint, "due", number) for number in range(1, 2 * 3 + 1)),
         *((FitProgress, "advance", number) for number in (1, 9, 30, 60))]  # fmt: skip
"""Under FEW two layers have a pass each of three scorings, before and after which there are batches."""


@pytest.fixture(scope="module")
def unstopped(write_store: Callable[..., Store], tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("unstopped")
    return fit_made(write_made(write_store, folder / "s.zarr"), folder / "run", **FEW)


@pytest.mark.parametrize(("owner", "method", "stop"), STOPS)
def test_a_run_that_was_stopped_goes_on_with_the_numbers_it_would_have_had(
    store: Store, unstopped: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, stop: int
) -> None:
    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    call, seen = getattr(owner, method), 0

    def stop_here(*arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == stop:
            raise KeyboardInterrupt
        return call(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(owner, method, stop_here)
        with pytest.raises(KeyboardInterrupt):
            fit_made(store, tmp_path / "run", **FEW)
    assert_same(unstopped, fit_made(store, tmp_path / "run", **FEW))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_stopped_pass_is_not_trained_from_the_beginning(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    advance, reported = FitProgress.advance, list[str]()

    def stop_in_the_third(self: FitProgress, n_units: float, where: str = "") -> None:
        advance(self, n_units, where)
        reported.extend([where] if where and where not in reported[-1:] else [])
        if reported == ["epoch 1/5", "epoch 2/5", "epoch 3/5"]:
            reported.append("stopped")
            raise KeyboardInterrupt

    monkeypatch.setattr(FitProgress, "advance", stop_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        fit_made(store, tmp_path / "run", layers="0", epochs=5)
    fit_made(store, tmp_path / "run", layers="0", epochs=5)
    assert reported[4:] == ["epoch 3/5", "epoch 4/5", "epoch 5/5"], "the third had not been kept yet"


@contextmanager
def stopped_once_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Interrupt the fit inside as soon as the run has a checkpoint."""
    advance = FitProgress.advance

    def stop(self: FitProgress, *arguments: Any) -> None:
        advance(self, *arguments)
        if (run / "checkpoint.pt").exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "due", lambda self: True)
        patched.setattr(FitProgress, "advance", stop)
        try:
            yield
        except KeyboardInterrupt:
            return
    pytest.fail("the fit ended before it was stopped")


def test_a_checkpoint_of_other_settings_is_not_used(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopped_once_kept(tmp_path / "run", monkeypatch):
        fit_made(store, tmp_path / "run", val=0.3)
    assert_same(fit_made(store, tmp_path / "whole"), fit_made(store, tmp_path / "run"))


def test_a_checkpoint_of_other_data_is_not_used(
    write_store: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store made again from other weights has the same path, name and cells."""
    old = write_made(write_store, tmp_path / "s.zarr")
    with stopped_once_kept(tmp_path / "run", monkeypatch):
        fit_made(old, tmp_path / "run")
    shutil.rmtree(tmp_path / "s.zarr")
    new = write_made(write_store, tmp_path / "s.zarr", blank=range(20))
    recipe = replace(new.manifest.recipe, weights="1" * 64)
    rewrite_root(new, replace(new.manifest, recipe=recipe))
    assert_same(fit_made(new, tmp_path / "whole"), fit_made(new, tmp_path / "run"))


def test_a_checkpoint_of_another_layout_is_not_used(store: Store, tmp_path: Path) -> None:
    """An older version kept its state under other names."""
    about = [identity(plan_of(store)), "a"]
    torch.save({"about": about, "state": {"scorings": 1, "riders": []}}, tmp_path / "checkpoint.pt")
    assert Checkpoint(tmp_path, about).load() is None


def test_the_seconds_of_a_group_are_shared_among_its_cells(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(store, heads=["ep:queries=4"], lr=[1.0, 3.0], seeds=2)
    (group,) = plan.grid.trained_groups(LayerSet((1,)), plan.grid.regimes[0])
    fit = start_fit(plan, group, torch.device("cpu"))
    monkeypatch.setattr(Group, "seconds", property(lambda self: 6.0))
    monkeypatch.setattr(Group, "cpu_seconds", property(lambda self: 2.0))
    assert [(row["train_seconds"], row["train_cpu_seconds"]) for row in group_rows(plan, fit)] == [(1.5, 0.5)] * 4


@pytest.mark.usefixtures("messages")
def test_cells_that_do_not_fit_into_memory_are_trained_in_parts(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"heads": ["ep:queries=4", "linear"], "lr": [0.3, 1.0, 3.0, 10.0], "layers": "1"}
    whole = fit_made(store, tmp_path / "whole", **settings)
    assert "memory" not in capsys.readouterr().err
    free = room_for_half(plan_of(store, **settings, epochs=4, batch_size=16), LayerSet((1,))) / USABLE
    monkeypatch.setattr(Machine, "free_bytes", lambda self: {"ram": int(free) + 1})
    parts = fit_made(store, tmp_path / "parts", **settings, cache="disk")
    assert "ep:queries=4" in capsys.readouterr().err
    key = ["cell", "epoch"]
    one, two = (run.history.sort_values(key).reset_index(drop=True) for run in (whole, parts))
    assert one[key].equals(two[key])
    assert one["train_loss"].to_numpy() == pytest.approx(two["train_loss"].to_numpy(), rel=1e-4)
    images = np.abs(one["test_top1"] - two["test_top1"]) * 60
    assert images.max() <= 1 + 1e-9


def room_for_half(plan: Plan, layers: LayerSet) -> int:
    """Return the bytes halfway between those of one cell of the first head and those of all."""
    regime, cells = plan.grid.trained_groups(layers, plan.grid.regimes[0])[0]
    memories = [memory_of(plan, torch.device("cpu"), CellGroup(regime, some)) for some in (cells[:1], cells)]
    return sum(memory.kept + memory.working for memory in memories) // 2


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_a_subset_is_trained_as_a_plain_loop_would(store: Store, tmp_path: Path, cache: str) -> None:
    """Full data, two subsets and two seeds ride together; the subset's rows alone decide its numbers."""
    torch.set_default_dtype(torch.float64)
    try:
        run = fit_made(
            store, tmp_path / "run", heads=["ep:queries=4"], layers="1", lr=[10.0], seeds=2, epochs=9, batch_size=7,
            warmup_epochs=1.5, protocol="paper", shots=["full", "4", "2"], cache=cache,
        )  # fmt: skip
        for row in run.results[run.results["shots"] != "full"].itertuples():
            rows = subset(store["train"].labels, np.arange(88), row.shots, row.seed, store["train"].classes)
            history = run.history[run.history["cell"] == row.cell].sort_values("epoch")
            expected = plain_training(10.0, row.seed, 9, 1.5, 7, rows=rows)
            assert history["train_loss"].tolist() == pytest.approx([loss for loss, _ in expected], rel=1e-8)
            assert history["test_top1"].tolist() == pytest.approx([top1 for _, top1 in expected], abs=1e-12)
            assert row.batch_size == 7 and row.epochs == 9
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(run.results) == 6


def test_parts_count_all_the_work_that_they_announce(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Subsets pass over their rows many times, some regimes are scored together, and a pass goes on in the middle."""
    counted: dict[str, list[float]] = {}
    part, advance = FitProgress.part, FitProgress.advance

    def noted_part(self: FitProgress, name: str, n_cells: int, n_units: float, done: float = 0, **more: Any) -> Any:
        counted.setdefault(name, [0.0, 0.0])
        counted[name][0] += n_units
        counted[name][1] += done
        self.noted = name  # type: ignore[attr-defined]
        return part(self, name, n_cells, n_units, done, **more)

    def noted_advance(self: FitProgress, n_units: float, where: str = "") -> None:
        counted[self.noted][1] += n_units  # type: ignore[attr-defined]
        advance(self, n_units, where)

    settings: dict[str, Any] = EVERYTHING | {"heads": ["ep:queries=4"], "lr": [1.0], "min_steps": 20}
    with stopped_once_kept(tmp_path / "run", monkeypatch):
        fit_made(store, tmp_path / "run", **settings)
    monkeypatch.setattr(FitProgress, "part", noted_part)
    monkeypatch.setattr(FitProgress, "advance", noted_advance)
    fit_made(store, tmp_path / "run", **settings)
    assert {"layer 1, reading", "layer 1,"} <= counted.keys()
    for announced, done in counted.values():
        assert done == pytest.approx(announced)
    fit_made(store, tmp_path / "other", **settings | {"heads": ["ridge", "logreg"], "shots": ["2"], "seeds": 1})
    assert {"layer 1, ridge", "layer 1, logreg"} <= counted.keys()
    for announced, done in counted.values():
        assert done == pytest.approx(announced)
