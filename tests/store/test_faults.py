"""Kills, full disks, rival writers and forked readers: real ones, in both formats."""

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import pytest
from torch.utils.data import DataLoader

from tokenprobe.cli import main
from tokenprobe.errors import LockedError, NoSpaceError, StoreError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.store import open_store, open_writer
from tokenprobe.store.verify import Problem, verify
from tokenprobe.testing.forks import count_steps, fork_and_kill
from tokenprobe.testing.store_kit import (
    Contents,
    block_path,
    blocks,
    declare,
    fill,
    folder_of,
    make_contents,
    root_of,
    says_complete,
    stamps,
    tree,
    write,
)

from .disk import fill_up_for

Place = Callable[[str], Path]
N_KILLS = 20


def test_a_store_killed_anywhere_and_resumed_equals_one_written_in_one_go(place: Place) -> None:
    """int8 tokens have the most kinds of file."""
    contents = make_contents("int8", counts={"train": 7, "test": 2})
    expected = tree(write(place("whole"), contents))
    n_steps = count_steps(lambda: write(place("counted"), contents))
    assert n_steps > 300
    for step in np.random.default_rng(0).choice(n_steps - 10, N_KILLS, replace=False):
        path = place(str(step))
        assert fork_and_kill(partial(write, path, contents), step)
        assert tree(path) == expected or not says_complete(path), f"killed at step {step}"
        finished = whole_blocks(path, n_kinds=5)
        assert tree(write(path, contents)) == expected, f"killed at step {step}"
        assert finished.items() <= stamps(path).items(), f"killed at step {step}: wrote finished files again"
        shutil.rmtree(path.parent)


def test_a_store_killed_again_and_again_gets_finished(place: Place) -> None:
    contents, path = make_contents(), place("again")
    expected = tree(write(place("whole"), contents))
    n_kills = 0
    while fork_and_kill(lambda: write(path, contents), 100 + 10 * n_kills):
        n_kills += 1
    assert n_kills > 3
    assert tree(path) == expected


def test_a_store_killed_while_it_grows_keeps_what_it_had(place: Place) -> None:
    contents = make_contents()
    expected = tree(write(place("whole"), contents))
    first = contents.part({"train": {"layer_00": ["mean", "patch", "prefix"]}})
    for step in range(0, 140, 23):
        path = place(str(step))
        write(path, first)
        assert fork_and_kill(partial(write, path, contents), step)
        train = open_store(path)["train"]
        train.check_complete([0])
        np.testing.assert_array_equal(train.tokens(0), contents.stored["train/layer_00/patch"][0])
        assert tree(write(path, contents)) == expected, f"killed at step {step}"


@pytest.mark.parametrize("n_kills", [1, 2, 3])
def test_a_store_killed_again_and_again_between_the_record_of_its_root_and_the_root_opens_and_goes_on(
    place: Place, n_kills: int
) -> None:
    contents, path = make_contents(), place("s")
    write(path, contents.part({"train": {"layer_00": ["mean"]}}))
    before = root_of(path).read_bytes()
    for number in range(n_kills):  # each time another command
        more = contents.part({"train": {"layer_00": ["mean"], "layer_03": ["mean", "patch", "prefix"][: number + 1]}})
        assert fork_and_kill(partial(write, path, more), 1, {"os.rename"})
        assert root_of(path).read_bytes() == before
        assert open_store(path).manifest.complete
        problems = [
            replace(problem, file=re.sub(r"\.[0-9a-f-]+\.tmp$", ".tmp", problem.file)) for problem in verify(path)
        ]
        foreign = Problem(f"{root_of(path).name}.tmp", "foreign", "foreign: nothing declares it")
        assert problems in ([], [foreign][: path.suffix == ".zarr"]), "the next command removes it"
    assert tree(write(path, contents)) == tree(write(place("whole"), contents))


def test_a_full_disk_keeps_the_finished_blocks_and_the_same_command_goes_on(
    small_disk: Callable[[int], Path], place: Place, suffix: str
) -> None:
    contents = make_contents(counts={"train": 600, "test": 3}, block_rows=75)
    expected = tree(write(place("whole"), contents))
    n_pages = sum(-(-len(data) // 4096) for data in expected.values() if data)
    path = small_disk(n_pages * 4 * 2 // 3) / f"store{suffix}"
    with pytest.raises(NoSpaceError) as raised:
        write(path, contents)
    assert str(raised.value) == (
        f"the disk of {str(path)!r} is full; finished blocks are safe: free some space, then run the same command again"
    )
    finished = check_half_written(path, contents)
    subprocess.run(["mount", "-o", "remount,size=64m", str(path.parent)], check=True)
    assert tree(write(path, contents)) == expected
    assert finished.items() <= stamps(path).items()


def test_a_disk_full_from_the_start_is_explained_too(
    small_disk: Callable[[int], Path], place: Place, suffix: str
) -> None:
    write(place("warm"), make_contents())  # files that libraries open once
    disk = small_disk(64)
    with pytest.raises(OSError, match="No space left"):
        fill_up(disk)
    n_open = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NoSpaceError, match="is full"):
        write(disk / f"store{suffix}", make_contents())
    assert len(os.listdir("/proc/self/fd")) == n_open


@pytest.mark.parametrize("array", ["train/layer_03/patch", "train/layer_03/mean"])
def test_a_block_that_finds_no_space_is_an_error_and_the_others_stay(
    place: Place, monkeypatch: pytest.MonkeyPatch, array: str
) -> None:
    """Works without root: /dev/full is a full disk on every system."""
    contents, path = make_contents(), place("s")
    expected = tree(write(place("whole"), contents))
    write(path, contents.part({"train": {"layer_00": ["mean", "patch", "prefix"]}}))
    leave_no_space(monkeypatch, block_path(path, array, 1, 1))
    with pytest.raises(NoSpaceError, match="is full; finished blocks are safe: free some space, then run the same"):
        write(path, contents)
    finished = check_half_written(path, contents)
    assert tree(write(path, contents)) == expected
    assert finished.items() <= stamps(path).items()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_ends_the_command_with_2_and_no_traceback(
    tiny_config: Callable[..., ExtractConfig],
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, whole = place("s"), place("whole")
    config = tiny_config(out=path)
    extract(tiny_config(out=path, layers="0"))
    leave_no_space(monkeypatch, block_path(path, "train/layer_02/patch", 0, 3))
    model = ",".join(f"{key}={value}" for key, value in config.model_arg.items())
    command = ["extract", "-m", config.model, "--model-arg", model, "--no-pretrained", "-d", config.data]
    command += ["--batch-size", "4", "--workers", "0"]
    assert main([*command, "-o", str(path)]) == 2
    shown = capsys.readouterr().err.splitlines()[-1]
    assert shown == (
        f"probe extract: the disk of {str(path)!r} is full; finished blocks are safe: "
        "free some space, then run the same command again"
    )
    assert main([*command, "-o", str(path)]) == main([*command, "-o", str(whole)]) == 0
    assert tree(path) == tree(whole)


def test_a_second_writer_is_refused_while_the_first_lives_and_no_longer(place: Place) -> None:
    contents, path = make_contents(), place("s")
    ready, tell = os.pipe()
    writer = os.fork()
    if writer == 0:
        try:
            with open_writer(path, contents.manifest) as opened:
                declare(opened, contents)
                fill(opened, contents, blocks(contents.manifest)[:1])
                os.write(tell, b"!")
                signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(ready, 1) == b"!"
        message = (
            f"^{str(folder_of(path))!r} is being written by process {writer} on .*; wait for it, or write to another"
        )
        for overwrite in (False, True):
            with pytest.raises(LockedError, match=message):
                write(path, contents, overwrite=overwrite)
        assert open_store(path)["train"].ids == contents.ids("train")  # readers are welcome
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        os.close(ready)
        os.close(tell)
    assert (folder_of(path) / ".lock").read_text().startswith(f"process {writer} ")
    assert tree(write(path, contents)) == tree(write(place("whole"), contents))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_a_store_that_their_parent_opened(place: Place, method: str) -> None:
    contents = make_contents("int8")
    split = open_store(write(place("s"), contents))["train"]
    patch = contents.returned["train/layer_03/patch"][1]
    rows = [10, 2, 7, 0, 5, 9]
    read = partial(split.tokens, 3, view=1)
    np.testing.assert_allclose(read(rows), patch[rows], rtol=2**-10, atol=2e-5)  # the parent's threads run
    n_workers = 2 if method == "fork" else 1  # a spawned one takes seconds to import
    loader: Any = DataLoader(
        cast(Any, rows), 3, num_workers=n_workers, collate_fn=read, multiprocessing_context=get_context(method)
    )
    read_there = np.concatenate(list(loader))
    np.testing.assert_allclose(read_there, patch[rows], rtol=2**-10, atol=2e-5)


def test_a_forked_process_sees_a_missing_block_as_the_same_error(place: Place) -> None:
    path = write(place("s"), make_contents())
    split = open_store(path)["train"]
    split.tokens(0)
    block_path(path, "train/layer_00/patch", 0, 1).unlink()
    with (
        ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool,
        pytest.raises(StoreError, match="is missing; run the same probe extract again"),
    ):
        pool.submit(split.tokens, 0).result()


def whole_blocks(path: Path, n_kinds: int) -> dict[str, tuple[int, int]]:
    """Return the stamps of the files whose whole block is recorded, in all arrays of the layer."""
    found = stamps(path)
    block = {name: re.sub(r"/\w+/(?:c\.)?(\d+\.\d+)[.0h5]*$", r" \1", name) for name in found}
    n_files = Counter(block.values())
    return {name: found[name] for name in found if n_files[block[name]] == n_kinds}


def check_half_written(path: Path, contents: Contents) -> dict[str, tuple[int, int]]:
    """Check the files that a full disk left, and return the stamps of the finished ones."""
    assert not list(folder_of(path).rglob("*.tmp"))
    store, finished = open_store(path), stamps(path)
    assert not store.manifest.complete
    assert sum("/patch/" in name for name in finished) >= 2
    assert {problem.kind for problem in verify(path)} == {"unfinished"}
    n_rows = contents.manifest.splits["train"].block_rows
    read = store["train"].tokens(0, range(n_rows))
    np.testing.assert_array_equal(read, contents.stored["train/layer_00/patch"][0, :n_rows])
    return finished


def leave_no_space(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Let writes to a file under its temporary name find a full disk."""
    fill_up_for(monkeypatch, file)


def fill_up(disk: Path) -> NoReturn:
    with open(disk / "ballast", "wb", buffering=0) as ballast:
        for _ in count():
            ballast.write(bytes(4096))
    raise AssertionError
