"""Parts of a run: trained by real processes, killed and repeated, and merged to the run of one process."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tokenprobe.cli import main
from tokenprobe.errors import InputError, RunError
from tokenprobe.probe import FitConfig, fit
from tokenprobe.probe.batches.layer_set import LayerSet
from tokenprobe.probe.fitting.parts import FOLDER, PLAN, FitWork, merge_parts, plan_once
from tokenprobe.probe.run.made_from import claim
from tokenprobe.probe.run.results import Run, open_run
from tokenprobe.store import Store

from ...engines.kit import end, probe, ranks_of, start, torchrun, wait_until
from ..kit import HEADS, WriteStore, assert_same, layer_plan_of, plan_of, write_made

SETTINGS: dict[str, Any] = {
    "heads": [*HEADS, "knn"], "lr": [1.0, 10.0], "epochs": 4, "batch_size": 16, "device": "cpu"
}  # fmt: skip


@pytest.fixture(scope="module")
def made(write_store: WriteStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Run]:
    """A store, and the run of one process."""
    folder = tmp_path_factory.mktemp("made")
    store = write_made(write_store, folder / "s.zarr")
    return store, fit(store.path, FitConfig(out=folder / "run", **SETTINGS))


def words(store: Store, out: Path, *more: str) -> list[str]:
    heads = [word for head in SETTINGS["heads"] for word in ("--head", head)]
    rest = ["--lr", "1,10", "--epochs", "4", "--batch-size", "16", "--device", "cpu"]
    return ["fit", str(store.path), "-o", str(out), *heads, *rest, *more]


@pytest.mark.slow
def test_two_processes_make_the_run_of_one_though_one_of_them_is_killed(
    made: tuple[Store, Run], tmp_path: Path
) -> None:
    store, whole = made
    out = tmp_path / "run"
    agent = start(torchrun(words(store, out), 2, max_restarts=1))
    wait_until(lambda: list(out.glob("parts/*/config.yaml")), agent)
    os.kill(ranks_of(agent)[1], signal.SIGKILL)
    status, _, messages = end(agent)
    assert status == 0, messages
    assert_same(Run(out), whole)
    assert not (out / FOLDER).exists()
    assert (out / "summary.md").exists()


@pytest.mark.slow
def test_shards_are_merged_to_the_run_of_one_process(
    made: tuple[Store, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, whole = made
    out = tmp_path / "run"
    shards = [start(probe(words(store, out, "--shard", f"{number}/2"))) for number in range(2)]
    assert [end(shard)[0] for shard in shards] == [0, 0]
    assert Run(out).results.empty
    assert main(["merge", str(out)]) == 0
    assert_same(Run(out), whole)
    assert main(["merge", str(out)]) == 2
    assert "has no parts to merge" in capsys.readouterr().err


def test_a_shard_that_is_missing_is_named_and_the_plain_command_trains_it(
    made: tuple[Store, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, whole = made
    out = tmp_path / "run"
    assert main(words(store, out, "--shard", "1/2")) == 0
    assert main(["merge", str(out)]) == 2
    assert "layer_0' lacks 7 of 7 cells; repeat the fit, or its shards" in capsys.readouterr().err
    settings = (out / "config.yaml").read_bytes()
    for other in (["--layers", "1"], ["--min-steps", "9"], ["--seed", "3"], ["--lr", "3"]):
        for more in ([], ["--shard", "0/2"]):
            assert main([*words(store, out), *other, *more]) == 2
            assert "holds parts of another command" in capsys.readouterr().err
            assert (out / "config.yaml").read_bytes() == settings, "a refused command leaves no trace"
    assert main(words(store, out)) == 0
    assert_same(Run(out), whole)


def test_whoever_is_first_decides_the_passes(made: tuple[Store, Run], tmp_path: Path) -> None:
    store, _ = made
    plan = plan_of(store, **SETTINGS).named("none")
    layers = [layer_plan_of(plan, LayerSet((0,))), layer_plan_of(plan, LayerSet((1,)))]
    apart = [replace(layer, passes=[[group] for groups in layer.passes for group in groups]) for layer in layers]
    assert [len(layer.passes) for layer in layers] == [1, 1]
    first = plan_once(Run(tmp_path), apart)
    second = plan_once(Run(tmp_path), layers)
    assert [len(part.layer.passes) for part in second] == [len(part.layer.passes) for part in first] == [3, 3]
    assert [part.layer.passes for part in second] == [part.layer.passes for part in first]
    with pytest.raises(RunError, match="holds parts of another command"):
        plan_once(Run(tmp_path), layers[:1])
    (tmp_path / FOLDER / PLAN).write_text("[1]")
    with pytest.raises(RunError, match="is damaged"):
        plan_once(Run(tmp_path), layers)


def test_a_part_goes_on_with_the_passes_that_it_lacks(made: tuple[Store, Run], tmp_path: Path) -> None:
    store, whole = made
    plan = plan_of(store, out=tmp_path, **SETTINGS).named("none")
    layer = layer_plan_of(plan, LayerSet((1,)))
    parts = plan_once(Run(tmp_path), [replace(layer, passes=[[group] for groups in layer.passes for group in groups])])
    told: list[int] = []
    claim(Run(tmp_path), [plan], "cpu")

    some = replace(parts[0], layer=replace(parts[0].layer, passes=parts[0].layer.passes[:1]))
    with FitWork(plan.config, "ram")() as work:
        work(iter([some]), lambda n, _: told.append(n))
        n_some = sum(told)
        assert 0 < n_some < parts[0].layer.n_cells
        told.clear()
        work(iter(parts), lambda n, _: told.append(n))
    assert told[0] == n_some, "these are counted and not trained again"
    assert sum(told) == parts[0].layer.n_cells
    with open_run(tmp_path) as run_of_all:
        merge_parts(run_of_all)
        of_layer = whole.results[whole.results["layer"] == "1"]
        columns = ["layer", "head", "lr", "test_top1", "val_top1", "best_epoch"]
        assert run_of_all.results[columns].equals(of_layer[columns].reset_index(drop=True))


def test_parts_of_other_settings_than_the_run_says_are_not_merged(
    made: tuple[Store, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A later fit would compare its cells with theirs."""
    store, whole = made
    out = tmp_path / "run"
    for shard in ("0/2", "1/2"):
        fit(store.path, FitConfig(out=out, shard=shard, **SETTINGS))
    config = out / "config.yaml"
    text = config.read_text()
    for damage in (lambda: config.write_text(text.replace("min_steps: 0", "min_steps: 9")), config.unlink):
        damage()
        assert main(["merge", str(out)]) == 2
        message = capsys.readouterr().err
        assert "min_steps" in message and "repeat the probe fit of the parts without --shard" in message
        assert Run(out).results.empty
    fit(store.path, FitConfig(out=out, **SETTINGS))
    assert_same(Run(out), whole)
    assert config.read_text() == text


def test_a_merge_that_was_killed_goes_on(made: tuple[Store, Run], tmp_path: Path) -> None:
    store, whole = made
    out = tmp_path / "run"
    for shard in ("0/2", "1/2"):
        fit(store.path, FitConfig(out=out, shard=shard, **SETTINGS))
    kept = shutil.copytree(out / FOLDER, tmp_path / "kept")
    with open_run(out) as merged:
        merge_parts(merged)
    shutil.copytree(kept, out / FOLDER)  # as if it was killed before the parts were removed
    with open_run(out) as merged:
        merge_parts(merged)
    assert_same(Run(out), whole)
    shutil.copytree(kept, out / FOLDER)
    fit(store.path, FitConfig(out=out, **SETTINGS))  # the plain command goes on, too
    assert_same(Run(out), whole)
    assert not (out / FOLDER).exists()
    shutil.copytree(kept, out / FOLDER)
    fit(store.path, FitConfig(out=out, **SETTINGS))  # also if the run has its report already
    assert not (out / FOLDER).exists()


def test_workers_on_devices_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a worker trains on cpu, but the leader planned for the memory of gpu"):
        FitWork(FitConfig(out=tmp_path, device="cpu"), "gpu")().__enter__()
