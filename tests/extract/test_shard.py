"""One shard declares the store, whoever is first; the others wait and check. No lock is needed."""

import os
import time
import traceback
from dataclasses import replace
from pathlib import Path

import pytest

from tokenprobe.errors import StoreError
from tokenprobe.extract import shard
from tokenprobe.extract.shard import declare_once, is_declared
from tokenprobe.store.formats import store_files
from tokenprobe.testing.store_kit import Contents, folder_of, journal_lines, make_contents, targets_of, tree, write


def declare(path: Path, contents: Contents) -> None:
    declare_once(path, contents.manifest, targets_of(contents), lambda leader: leader.journal.add_event("start"))


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_of_shards_that_start_at_once_one_declares(
    tmp_path: Path, suffix: str, locks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not locks:
        monkeypatch.setattr("tokenprobe.store.lock.fcntl.flock", lambda fd, how: None)
    contents, path = make_contents(), tmp_path / f"s{suffix}"
    begin = time.monotonic() + 0.3
    processes = []
    for _ in range(4):
        process = os.fork()
        if process == 0:
            status = 1
            try:
                time.sleep(max(0.0, begin - time.monotonic()))
                declare(path, contents)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        processes.append(process)
    assert [os.waitpid(process, 0)[1] for process in processes] == [0] * 4
    assert is_declared(store_files(path), contents.manifest)
    assert [entry["event"] for entry in journal_lines(path) if "event" in entry].count("start") == 1
    other = tmp_path / "other" / f"s{suffix}"
    assert tree(write(path, contents)) == tree(write(other, contents))


def test_a_folder_whose_maker_died_is_declared_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "PATIENCE", 0.5)
    contents, path = make_contents(), tmp_path / "s.zarr"
    folder_of(path).mkdir()
    start = time.monotonic()
    declare(path, contents)
    assert time.monotonic() - start >= 0.5
    assert is_declared(store_files(path), contents.manifest)


def test_a_store_is_extended_by_shards_and_another_one_is_refused(tmp_path: Path) -> None:
    contents, path = make_contents(), tmp_path / "s.zarr"
    write(path, contents.part({"train": {"layer_00": ["mean"]}}))
    assert not is_declared(store_files(path), contents.manifest)
    declare(path, contents)
    assert is_declared(store_files(path), contents.manifest)
    other = replace(
        contents, manifest=replace(contents.manifest, recipe=replace(contents.manifest.recipe, weights="1" * 64))
    )
    with pytest.raises(StoreError, match="the store was made differently"):
        declare(path, other)
