"""Real torchrun, with processes that are killed, stopped and started again. Bytes equal those of one process."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from tokenprobe.cli import main
from tokenprobe.store import open_store
from tokenprobe.store.journal import finished_files

from .kit import EXTRACT, check_whole, end, files_of, n_blocks, probe, ranks_of, run, start, torchrun, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a store that one process made."""
    store = tmp_path_factory.mktemp("whole") / "s.zarr"
    assert run(probe([*EXTRACT, "-o", str(store)]))[0] == 0
    return files_of(store)


def test_three_processes_make_the_store_of_one_and_only_the_leader_speaks(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    store = tmp_path / "s.zarr"
    status, shown, messages = run(torchrun([*EXTRACT, "-o", str(store), "--json"], 3))
    assert status == 0, messages
    check_whole(store, whole)
    assert shown.count('"complete": true') == 1
    ours = [line for line in messages.splitlines() if line.startswith(("extract", str(store)))]
    n_images = sum(info.n_images for info in open_store(store).manifest.splits.values())
    assert [line for line in ours if line.startswith("extract")][-1].startswith(f"extract {n_images}/{n_images} images")
    assert sum(line.startswith(f"{store}: {n_images} images in") for line in ours) == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_a_rank_that_is_killed_is_started_again_with_restarts(
    tmp_path: Path, whole: dict[str, bytes], seed: int
) -> None:
    store, rng = tmp_path / "s.zarr", np.random.default_rng(seed)
    agent = start(torchrun([*EXTRACT, "-o", str(store)], 2, max_restarts=1))
    least = int(rng.integers(1, len(whole) // 2))
    wait_until(lambda: store.exists() and n_blocks(store) >= least, agent)
    os.kill(ranks_of(agent)[seed], signal.SIGKILL)  # the leader, or the other one
    status, _, messages = end(agent)
    assert status == 0, messages
    check_whole(store, whole)


def test_a_rank_that_is_killed_without_restarts_loses_no_block_and_another_number_of_processes_goes_on(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    store = tmp_path / "s.zarr"
    agent = start(torchrun([*EXTRACT, "-o", str(store)], 2))
    wait_until(lambda: store.exists() and n_blocks(store) >= 30, agent)
    os.kill(ranks_of(agent)[1], signal.SIGKILL)
    assert end(agent)[0] != 0
    assert not open_store(store).manifest.complete
    finished = [store / name for name in finished_files(store) if "/layer_" in name and "/c." in name]
    stamps = {file: file.stat().st_ino for file in finished}  # a file that no journal records yet gives way
    assert len(stamps) >= 20
    status, _, messages = run(torchrun([*EXTRACT, "-o", str(store)], 3))
    assert status == 0, messages
    check_whole(store, whole)
    assert {file: file.stat().st_ino for file in stamps} == stamps, "no finished block was made again"


def test_a_signal_to_torchrun_lets_every_rank_finish_its_block(tmp_path: Path, whole: dict[str, bytes]) -> None:
    store = tmp_path / "s.zarr"
    agent = start(torchrun([*EXTRACT, "-o", str(store)], 2))
    wait_until(lambda: store.exists() and n_blocks(store) >= 10, agent)
    agent.send_signal(signal.SIGTERM)
    status, _, messages = end(agent)
    assert status != 0
    assert messages.count("probe extract: terminated; finished work is safe") == 2, messages
    assert not list(store.rglob("*.tmp"))
    assert run(probe([*EXTRACT, "-o", str(store)]))[0] == 0  # alone
    check_whole(store, whole)


def test_a_refusal_by_the_leader_ends_all_ranks(tmp_path: Path) -> None:
    status, _, messages = run(torchrun([*EXTRACT, "-o", str(tmp_path / "s.zarr"), "--layers", "99"], 2))
    assert status != 0
    assert messages.count("probe extract: unknown layer of the backbone '99'; known: 0, 1, 2, 3") == 1


def test_without_torchrun_the_engine_says_how_to_start_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*EXTRACT, "-o", str(tmp_path / "s.zarr"), "--engine", "torchrun"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "probe extract: engine 'torchrun' asked for, but RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT is not set; "
        "start the command with torchrun --nproc-per-node=N -m tokenprobe …"
    )
