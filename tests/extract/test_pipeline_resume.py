"""Extended, repeated, mended and killed extractions: the store equals that of an uninterrupted run."""

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.store import open_store

from ..conftest import TINY_VIT
from .kit import NOT_INPUTS_ALONE, MakeConfig, block_of, digests, finished, made_vit


@pytest.fixture
def reference(whole: Path) -> dict[str, str]:
    """Hashes of the whole store."""
    return digests(whole)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"split": ["test"]}, {}),
        ({"split": ["test"]}, {"split": ["train"]}),
        ({"layers": "1"}, {}),
        ({"layers": "2,0"}, {"layers": "1"}),
        ({"tokens": ["prefix"]}, {"tokens": ["patch"]}),
        ({"layers": "0", "split": ["train"]}, {"workers": 2}),
        ({"split": ["train"], "workers": 2}, {"block_mib": 64}),
    ],
    ids=str,
)
def test_a_store_extended_equals_one_extracted_whole(
    tiny_config: MakeConfig, reference: dict[str, str], first: dict[str, Any], second: dict[str, Any]
) -> None:
    extract(tiny_config(**first))
    out = extract(tiny_config(**second))
    assert digests(out) == reference
    assert open_store(out).manifest.complete


@pytest.mark.usefixtures("messages")
def test_a_command_repeated_changes_nothing(
    tiny_config: MakeConfig, reference: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = extract(tiny_config())
    times = {file: file.stat().st_mtime_ns for file in out.glob("*/layer_*/*/c.*")}
    extract(tiny_config())
    assert digests(out) == reference
    assert {file: file.stat().st_mtime_ns for file in out.glob("*/layer_*/*/c.*")} == times
    assert "nothing to do, the store already holds everything" in capsys.readouterr().err


def test_a_lost_block_is_made_again(tiny_config: MakeConfig, reference: dict[str, str]) -> None:
    out = extract(tiny_config())
    next((out / "train/layer_01/patch").glob("c.*")).unlink()
    next((out / "test/layer_02/mean").glob("c.*")).write_bytes(b"cut")
    extract(tiny_config())
    assert digests(out) == reference


def test_overwrite_leaves_nothing_of_the_old_store(tiny_config: MakeConfig, reference: dict[str, str]) -> None:
    extract(tiny_config(dtype="float32", seed=3, limit=5))
    assert digests(extract(tiny_config(overwrite=True))) == reference


def test_no_absolute_path_is_in_the_store(tiny_config: MakeConfig, image_folder: Path, tmp_path: Path) -> None:
    made_vit(tmp_path / "a.safetensors")
    out = extract(tiny_config(layers="0", checkpoint=tmp_path / "a.safetensors", no_pretrained=False))
    for file in out.rglob("*"):
        if file.is_file() and file.name not in NOT_INPUTS_ALONE:
            content = file.read_bytes()
            assert str(tmp_path).encode() not in content and str(image_folder).encode() not in content, file


KillAt = Callable[[ExtractConfig, int], list[int]]

FORKING = """
import multiprocessing
multiprocessing.set_start_method("fork", force=True)  # a child of a forkserver would use it for its workers too
extract(config)
"""


@pytest.fixture(scope="module")
def never_interrupted(tmp_path_factory: pytest.TempPathFactory) -> ExtractConfig:
    """Config of a finished extraction: 16 blocks of 4 layers of 3 arrays, 192 files."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, n_images in (("train", 200), ("test", 48)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (n_images, 16, 16, 3)).astype(np.uint8)
        arrays[f"y_{split}"] = np.arange(n_images) % 5
    np.savez(folder / "many.npz", **arrays)
    config = ExtractConfig(
        model="timm:VisionTransformer",
        model_arg=TINY_VIT | {"depth": 4, "embed_dim": 48},
        no_pretrained=True,
        data=f"npz:{folder / 'many.npz'}",
        out=folder / "whole.zarr",
        batch_size=4,
        workers=0,
    )
    assert len(finished(extract(config))) == 192
    return config


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def kill_at() -> Iterator[KillAt]:
    """Run an extraction in a process, SIGKILL it after so many finished files, and yield its stopped orphans.

    Stopped workers cannot look for their parent, which they do every five seconds, and end.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tokenprobe.extract.pipeline", "zarr", "pytest"])  # load once for all runs
    orphans: list[int] = []

    def run(config: ExtractConfig, n_files: int) -> list[int]:
        process = context.Process(target=exec, args=(FORKING, {"extract": extract, "config": config}))
        process.start()
        journal, deadline = Path(config.out) / "journal.jsonl", time.monotonic() + 60
        while not journal.exists() or journal.read_bytes().count(b"/c.0.") < n_files:
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.001)
        of_process = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        orphans.extend(map(int, of_process.split()))
        process.kill()
        process.join(10)
        for orphan in orphans:  # only now: when a parent ends, the kernel sends SIGHUP to its stopped children
            os.kill(orphan, signal.SIGSTOP)
        assert process.exitcode == -signal.SIGKILL
        return orphans

    yield run
    for orphan in orphans:
        if alive(orphan):
            os.kill(orphan, signal.SIGKILL)


@pytest.mark.parametrize("n_files", [1, 60, 120])
def test_killed_and_run_again_the_store_is_the_one_never_interrupted(
    never_interrupted: ExtractConfig, tmp_path: Path, kill_at: KillAt, n_files: int
) -> None:
    out = tmp_path / "killed.zarr"
    config = replace(never_interrupted, out=out, workers=1)
    orphans = kill_at(config, n_files)
    before = finished(out)
    assert n_files <= len(before) < 192, "killed in the middle"
    assert not open_store(out).manifest.complete
    times = {name: (out / name).stat().st_mtime_ns for name in before}
    extract(config)  # at once: an orphan holds no lock
    assert len(orphans) == 1 and alive(orphans[0]), "the forked worker of the killed process is still there"
    assert digests(out) == digests(Path(never_interrupted.out))
    arrays_of_block = Counter(block_of(name) for name in before)
    kept = {name for name in before if arrays_of_block[block_of(name)] == 3}
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == {name: times[name] for name in kept}
