"""Who may write at a path: one writer, and only where nothing else is. In both formats."""

import os
from collections.abc import Callable
from errno import EACCES, ENOSPC
from pathlib import Path

import pytest

from tokenprobe.errors import LockedError, NoSpaceError, StoreError
from tokenprobe.store import open_writer
from tokenprobe.store.claim import check_path, claimed, empty
from tokenprobe.store.formats import store_files
from tokenprobe.store.journal import FileRecord, Journal

from .kit import folder_of, make_contents, tree, write

Place = Callable[[str], Path]


def test_one_writer_at_a_time(place: Place) -> None:
    contents, path = make_contents(), place("s")
    before = tree(write(path, contents))
    with (
        open_writer(path, contents.manifest),
        pytest.raises(LockedError, match=f"being written by process {os.getpid()} "),
        open_writer(path, contents.manifest, overwrite=True),
    ):
        pass
    assert tree(path) == before


def test_other_errors_of_the_system_pass_as_they_are(place: Place) -> None:
    contents, path = make_contents(), place("s")
    write(path, contents.part({"train": {"layer_00": ["mean"]}}))
    (folder_of(path) / "train" / "layer_03").write_text("in the way")
    with pytest.raises(OSError, match=r"File exists|Not a directory") as raised:
        write(path, contents)
    assert not isinstance(raised.value, NoSpaceError)


def test_a_full_disk_is_explained_and_other_errors_are_not(place: Place) -> None:
    files = store_files(place("s"))
    message = f"^the disk of {str(files.path)!r} is full; finished blocks are safe: free some space, then run the same"
    with pytest.raises(NoSpaceError, match=message), claimed(files):
        raise OSError(ENOSPC, os.strerror(ENOSPC))
    with pytest.raises(PermissionError, match="Permission denied") as raised, claimed(files):
        raise OSError(EACCES, os.strerror(EACCES))
    assert not isinstance(raised.value, NoSpaceError)


def test_what_is_no_store_is_in_the_way_and_a_store_is_not(place: Place) -> None:
    path = place("s")
    check_path(path)
    folder_of(path).mkdir()
    check_path(path)
    (folder_of(path) / "photo.png").write_bytes(b"mine")
    with pytest.raises(StoreError, match=f"^{str(path)!r} exists and is not a token store; give another path$"):
        check_path(path)
    (folder_of(path) / "photo.png").unlink()
    check_path(write(path, make_contents()))


def test_what_a_first_run_left_that_was_killed_before_its_root_is_not_in_the_way(place: Place) -> None:
    """The root is recorded before it is written; once anything else is recorded, there was a root."""
    path = place("s")
    folder_of(path).mkdir()
    journal = Journal(folder_of(path))
    journal.add_event("start")
    check_path(path)
    journal.add_root(FileRecord("manifest", 1, "0" * 16), {})
    check_path(path)
    journal.add_files([FileRecord("train/ids.h5", 1, "0" * 16)])
    journal.close()
    with pytest.raises(StoreError, match="exists and is not a token store"):
        check_path(path)


def test_emptying_leaves_the_lock_and_a_journal_of_nothing(place: Place) -> None:
    path = write(place("s"), make_contents())
    empty(store_files(path))
    assert {file.name: file.read_bytes() for file in folder_of(path).iterdir() if file.name != ".lock"} == {
        "journal.jsonl": b""
    }
    assert (folder_of(path) / ".lock").exists() and not store_files(path).exists()
