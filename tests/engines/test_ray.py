"""A real Ray cluster of two nodes on this machine: one node is removed and one worker killed while they work."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tokenprobe.errors import InputError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.probe import FitConfig, fit
from tokenprobe.probe.run.results import Run

from ..probe.kit import HEADS, WriteStore, assert_same, write_made
from .kit import check_whole, files_of, n_blocks

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning", "ignore::DeprecationWarning"),
]
MODEL_ARG = {"img_size": 28, "patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 2}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    ray.shutdown()
    made.shutdown()


def config_of(out: Path, **changes: Any) -> ExtractConfig:
    return ExtractConfig(
        model="timm:VisionTransformer", no_pretrained=True, data="demo", workers=1, limit=320, batch_size=16,
        device="cpu", model_arg=MODEL_ARG, out=out, **changes,
    )  # fmt: skip


def test_a_node_is_removed_and_a_worker_killed_while_they_extract(cluster: Any, tmp_path: Path) -> None:
    whole = files_of(Path(extract(config_of(tmp_path / "whole.zarr"))))
    store, node = tmp_path / "s.zarr", cluster.add_node(num_cpus=1)
    disturbed: list[str] = []

    def disturb() -> None:
        until = time.monotonic() + 120
        for what, least in (("worker", 5), ("node", 40)):
            while not (store.exists() and n_blocks(store) >= least) and time.monotonic() < until:
                time.sleep(0.01)
            if what == "node":
                cluster.remove_node(node, allow_graceful=False)
            else:
                workers = [p for p in map(_command, Path("/proc").glob("[0-9]*")) if p is not None]
                os.kill(workers[0], signal.SIGKILL)
            disturbed.append(what)

    thread = Thread(target=disturb)
    thread.start()
    extract(config_of(store, engine="ray", address=cluster.address))
    thread.join()
    assert disturbed == ["worker", "node"]
    check_whole(store, whole)


def test_relative_paths_are_those_of_the_leader(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers were started in another folder."""
    whole = files_of(Path(extract(config_of(tmp_path / "whole.zarr"))))
    monkeypatch.chdir(tmp_path)
    extract(config_of(Path("s.zarr"), engine="ray", address=cluster.address))
    check_whole(tmp_path / "s.zarr", whole)


def test_a_task_that_no_machine_has_the_gpus_for_is_refused(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^num_gpus 3 per task, but no machine of the Ray cluster has more than 0; "):
        extract(config_of(tmp_path / "s.zarr", engine="ray", address=cluster.address, num_gpus=3))


def _command(process: Path) -> int | None:
    """Return the number of a process that runs a task of ours."""
    try:
        return int(process.name) if process.joinpath("cmdline").read_bytes().startswith(b"ray::_do") else None
    except OSError:
        return None


def test_a_fit_on_ray_makes_the_run_of_one_process(cluster: Any, write_store: WriteStore, tmp_path: Path) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    settings: dict[str, Any] = {"heads": HEADS, "lr": [1.0], "epochs": 3, "batch_size": 16, "device": "cpu"}
    whole = fit(store.path, FitConfig(out=tmp_path / "whole", **settings))
    fit(store.path, FitConfig(out=tmp_path / "run", engine="ray", address=cluster.address, **settings))
    assert_same(Run(tmp_path / "run"), whole)


def test_an_error_in_a_task_is_the_workers_own(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "data" / "train" / "a").mkdir(parents=True)
    (tmp_path / "data" / "train" / "a" / "0.png").write_text("no image")
    config = ExtractConfig(
        model="timm:VisionTransformer", no_pretrained=True, data=f"folder:{tmp_path / 'data'}", workers=0,
        device="cpu", model_arg=MODEL_ARG, out=tmp_path / "s.zarr", engine="ray", address=cluster.address,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"cannot read image 'a/0\.png'"):
        extract(config)


def test_wrong_settings_are_refused_before_ray_starts(tmp_path: Path) -> None:
    """There is no cluster at the address, and the first message is about the settings."""
    nowhere: dict[str, Any] = {"engine": "ray", "address": "127.0.0.1:1"}
    with pytest.raises(InputError, match=r"^split_fraction 2\.0: expected a number between 0 and 1$"):
        extract(config_of(tmp_path / "s.zarr", split_fraction=2.0, **nowhere))
    with pytest.raises(InputError, match=r"^shard '3/2': expected I/N"):
        fit(tmp_path / "s.zarr", FitConfig(out=tmp_path / "run", shard="3/2", **nowhere))
    (tmp_path / "thesis").write_text("mine")
    with pytest.raises(InputError, match=r"thesis' is a file; give --out a folder for the run$"):
        fit(tmp_path / "s.zarr", FitConfig(out=tmp_path / "thesis", **nowhere))
