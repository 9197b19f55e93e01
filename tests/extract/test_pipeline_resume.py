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

from tokenprobe.errors import InputError, StoreError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.datasets import open_dataset
from tokenprobe.extract.listing import list_images
from tokenprobe.store import open_store
from tokenprobe.store.verify import verify

from ..conftest import TINY_VIT
from .kit import BAD, NOT_INPUTS_ALONE, MakeConfig, block_of, digests, finished, made_vit


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
    out = Path(extract(tiny_config(**second)))
    assert digests(out) == reference
    assert open_store(out).manifest.complete


@pytest.mark.usefixtures("messages")
@pytest.mark.parametrize(("form", "dtype"), [("zarr", "float16"), ("h5", "int8")])
def test_a_larger_limit_adds_rows(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, dtype: str
) -> None:
    """From 10 to 25 images, and then to all 60 of train and 24 of test; each has the tokens of a store made whole."""
    out = tmp_path / f"a.{form}"
    small = open_store(extract(tiny_config(out=out, dtype=dtype, limit=10)))
    files, ids = block_files(out), {split: small[split].ids for split in small.splits}
    for limit, n_images in ((25, {"train": 25, "test": 24}), (None, {"train": 60, "test": 24})):
        store = open_store(extract(tiny_config(out=out, dtype=dtype, limit=limit)))
        assert {split: len(store[split]) for split in store.splits} == n_images
        assert verify(out) == [] and store.manifest.complete
        assert {split: store[split].ids[: len(ids[split])] for split in ids} == ids
        ids = {split: store[split].ids for split in store.splits}
    with pytest.raises(StoreError, match="was made anew, grown, moved or removed"):
        small.check_unchanged()
    assert "split 'train' grows from at most 25 images to all images" in capsys.readouterr().err
    whole = open_store(extract(tiny_config(out=tmp_path / f"whole.{form}", dtype=dtype)))
    for split in whole.splits:
        places = [whole[split].ids.index(key) for key in store[split].ids]
        assert sorted(places) == list(range(len(places)))
        assert store[split].labels.tolist() == whole[split].labels[places].tolist()
        for layer in whole.layers:  # another batch around an image may change the last bits
            mean, other = (s[split].tokens(layer, kind="mean") for s in (store, whole))
            np.testing.assert_allclose(mean, other[places], rtol=1e-5, atol=1e-6)
    kept = {name: mark for name, mark in files.items() if block_files(out)[name] == mark}
    n_blocks = 10 // small["train"].info.block_rows if dtype == "float16" else 0
    assert len([name for name in kept if "train/layer_00/patch/" in name]) == n_blocks


def block_files(out: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of each block file."""
    folder = out.with_name(out.name + ".blocks") if out.suffix == ".h5" else out
    files = [file for file in folder.glob("*/layer_*/*/*") if file.name != "zarr.json"]
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def test_a_grown_store_takes_earlier_commands_again_and_new_layers(tiny_config: MakeConfig) -> None:
    out = Path(extract(tiny_config(limit=10, layers="0,1")))
    extract(tiny_config(limit=25, layers="0", split=["train"]))
    assert not open_store(out).manifest.complete  # layer 1 lacks the new rows
    extract(tiny_config(limit=10, layers="0,1"))
    store, files = open_store(out), block_files(out)
    assert store.manifest.complete and verify(out) == []
    assert (len(store["train"]), len(store["test"])) == (25, 10)
    extract(tiny_config(limit=10, layers="0,1"))
    assert block_files(out) == files
    with pytest.raises(StoreError, match=r"train\.limit\.n: stored 25, asked 5"):
        extract(tiny_config(limit=5, layers="0"))
    with pytest.raises(StoreError, match=r"seed: stored 0, asked 1"):
        extract(tiny_config(limit=50, seed=1, layers="0"))


def test_unreadable_images_among_the_added_ones_are_left_out(
    tiny_config: MakeConfig, broken_folder: Path, tmp_path: Path
) -> None:
    config: dict[str, Any] = {"data": f"folder:{broken_folder}", "layers": "0", "split": ["train"]}
    limit = next(n for n in range(3, 60) if BAD in grown_ids(tiny_config(**config, limit=n))) - 1
    out = Path(extract(tiny_config(**config, limit=limit)))
    with pytest.raises(InputError, match="cannot read image 'bee/07"):
        extract(tiny_config(**config))
    extract(tiny_config(**config, skip_bad_images=True))
    store = open_store(out)
    assert store.manifest.splits["train"].skipped == [BAD]
    assert (len(store["train"]), store.manifest.complete, verify(out)) == (59, True, [])


def grown_ids(config: ExtractConfig) -> list[str]:
    (chosen,) = list_images(replace(config, overwrite=True), open_dataset(config.data)).values()
    return chosen.rows.ids


@pytest.mark.usefixtures("messages")
def test_a_command_repeated_changes_nothing(
    tiny_config: MakeConfig, reference: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(extract(tiny_config()))
    times = {file: file.stat().st_mtime_ns for file in out.glob("*/layer_*/*/c.*")}
    extract(tiny_config())
    assert digests(out) == reference
    assert {file: file.stat().st_mtime_ns for file in out.glob("*/layer_*/*/c.*")} == times
    assert "nothing to do, the store already holds all that was asked for" in capsys.readouterr().err


def test_a_lost_block_is_made_again(tiny_config: MakeConfig, reference: dict[str, str]) -> None:
    out = Path(extract(tiny_config()))
    next((out / "train/layer_01/patch").glob("c.*")).unlink()
    next((out / "test/layer_02/mean").glob("c.*")).write_bytes(b"cut")
    extract(tiny_config())
    assert digests(out) == reference


def test_overwrite_leaves_nothing_of_the_old_store(tiny_config: MakeConfig, reference: dict[str, str]) -> None:
    extract(tiny_config(dtype="float32", seed=3, limit=5))
    assert digests(extract(tiny_config(overwrite=True))) == reference


def test_no_absolute_path_is_in_the_store(tiny_config: MakeConfig, image_folder: Path, tmp_path: Path) -> None:
    made_vit(tmp_path / "a.safetensors")
    out = Path(extract(tiny_config(layers="0", checkpoint=tmp_path / "a.safetensors", no_pretrained=False)))
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
