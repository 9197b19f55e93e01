"""Claiming a path: one writer, and only at a path without other files. In both formats."""

import os
from collections.abc import Callable
from errno import EACCES, ENOSPC
from pathlib import Path

import pytest

from tokenprobe.errors import LockedError, NoSpaceError, StoreError
from tokenprobe.store import open_writer
from tokenprobe.store.claim import check_path, claimed, empty
from tokenprobe.store.contract import StoreFiles
from tokenprobe.store.formats import store_files
from tokenprobe.store.journal import FileRecord, Journal
from tokenprobe.store.verify import verify
from tokenprobe.testing.forks import fork_and_kill
from tokenprobe.testing.store_kit import block_path, folder_of, make_contents, root_of, tree, write

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


@pytest.mark.parametrize("moment", ["folder", "root"])
def test_a_store_that_another_process_declares_meanwhile_is_no_foreign_folder(
    place: Place, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path, (where, name) = place("s"), {"folder": (os.path, "lexists"), "root": (StoreFiles, "exists")}[moment]
    plain: Callable[..., bool] = getattr(where, name)

    def answer_late(*of: object) -> bool:
        there = plain(*of)
        monkeypatch.setattr(where, name, plain)
        write(path, make_contents())
        return there

    monkeypatch.setattr(where, name, answer_late)
    check_path(path)


def test_what_a_first_run_left_that_was_killed_before_its_root_is_not_in_the_way(place: Place) -> None:
    """The root is recorded before it is written. If anything else is recorded, there was a root."""
    path = place("s")
    folder_of(path).mkdir()
    journal = Journal(folder_of(path))
    journal.add_event("start")
    check_path(path)
    journal.add_root(FileRecord("manifest", 1, "0" * 16), {})
    check_path(path)
    journal.add_files([FileRecord("train/ids.h5", 1, "0" * 16)])
    journal.close()
    message = f"^{str(path)!r} has lost its manifest; bring it back with probe verify --repair$"
    with pytest.raises(StoreError, match=message):
        check_path(path)


FOREIGN_JOURNALS = {
    "empty": b"",
    "of another program": b'{"date": "2026-01-01"}\n',
    "no JSON": b"dear diary,\n",
    "of one line without an end": b"dear diary",
    "ours, with a line of another program": b'{"event": "start"}\n{"date": "2026-01-01"}\n',
    "ours": b'{"event": "made", "id": "0"}\n',
    "ours, torn": b'{"event": "made", "id": "0"}\n{"eve',
}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("content", FOREIGN_JOURNALS.values(), ids=FOREIGN_JOURNALS)
def test_a_folder_of_yours_stays_whatever_journal_is_in_it(place: Place, content: bytes, overwrite: bool) -> None:
    path = place("s")
    (folder_of(path) / "photos").mkdir(parents=True)
    (folder_of(path) / "photos" / "a.txt").write_text("precious")
    (folder_of(path) / "journal.jsonl").write_bytes(content)
    before = {file: file.read_bytes() for file in folder_of(path).rglob("*") if file.is_file()}
    message = f"^{str(path)!r} exists and is not a token store; give another path$"
    with pytest.raises(StoreError, match=message), open_writer(path, make_contents().manifest, overwrite=overwrite):
        pass
    assert {file: file.read_bytes() for file in folder_of(path).rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("name", "content", "is_ours"),
    [
        ("journal.jsonl", b"", True),
        ("journal.jsonl", b'{"event": "made", "id": "0"}\n{"file": "mani', True),
        ("journal.jsonl", b'{"event": "made", "id": "0"}\n{"date": 1}\n', False),
        ("journal.jsonl", b"dear diary", False),
        (".lock", b"", True),
        (".lock", b"process 17 on a machine", True),
        (".lock", b"proc", True),
        (".lock", b"my lock", False),
        ("zarr.json.tmp", b"half a ro", True),
        ("notes.tmp", b"", False),
    ],
)
def test_a_folder_with_one_file_is_fresh_if_a_writer_leaves_such_a_file(
    tmp_path: Path, name: str, content: bytes, is_ours: bool
) -> None:
    path = tmp_path / "s.zarr"
    path.mkdir()
    (path / name).write_bytes(content)
    if is_ours:
        assert tree(write(path, make_contents())).keys() >= {"s.zarr/zarr.json"}
    else:
        with pytest.raises(StoreError, match="exists and is not a token store"):
            check_path(path)
        assert (path / name).read_bytes() == content


@pytest.mark.parametrize("name", ["journal.jsonl", ".lock", "zarr.json.tmp"])
def test_a_link_to_a_file_of_yours_makes_no_folder_fresh(tmp_path: Path, name: str) -> None:
    path, mine = tmp_path / "s.zarr", tmp_path / "mine"
    path.mkdir()
    mine.touch()
    (path / name).symlink_to(mine)
    with pytest.raises(StoreError, match="exists and is not a token store"):
        check_path(path)


def test_a_link_to_nowhere_is_in_the_way(place: Place) -> None:
    path = place("s")
    folder_of(path).symlink_to(path.parent / "nowhere")
    with pytest.raises(StoreError, match="exists and is not a token store"):
        check_path(path)


def test_emptying_leaves_the_lock_and_a_journal_of_nothing(place: Place) -> None:
    path = write(place("s"), make_contents())
    block = block_path(path, "train/layer_00/patch", 0, 1)
    block.with_name(f"{block.name}.tmp").write_text("left by a kill")
    empty(store_files(path))
    assert {file.name: file.read_bytes() for file in folder_of(path).iterdir() if file.name != ".lock"} == {
        "journal.jsonl": b""
    }
    assert (folder_of(path) / ".lock").exists() and not store_files(path).exists()


def test_making_a_store_anew_leaves_what_is_yours(place: Place) -> None:
    path = write(place("s"), make_contents())
    mine = [folder_of(path) / name for name in ("notes.txt", "train/layer_00/notes.txt", "photos/a.png")]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_text("precious")
    write(path, make_contents("int8"), overwrite=True)
    assert [file.read_text() for file in mine] == ["precious"] * 3
    assert {problem.file for problem in verify(path)} == {str(file.relative_to(folder_of(path))) for file in mine}


@pytest.mark.parametrize("name", ["../precious", "train/../../precious", "{path}/precious"])
def test_a_journal_that_names_files_elsewhere_leads_nobody_there(place: Place, name: str) -> None:
    path = write(place("s"), make_contents())
    precious = folder_of(path).parent / "precious"
    precious.write_text("mine")
    journal = Journal(folder_of(path))
    journal.add_files([FileRecord(name.format(path=path.parent), 4, "0" * 16)])
    journal.close()
    assert verify(path) == []
    write(path, make_contents(), overwrite=True)
    assert precious.read_text() == "mine"


def test_nothing_is_removed_behind_a_link(place: Place) -> None:
    path = write(place("s"), make_contents())
    train, elsewhere = folder_of(path) / "train", path.parent / "elsewhere"
    train.rename(elsewhere)
    train.symlink_to(elsewhere)
    before = tree(path), tree(elsewhere)
    message = (
        f"^'{train}' is a symbolic link, and files behind a link are not removed; put the folder itself in its place$"
    )
    with pytest.raises(StoreError, match=message):
        write(path, make_contents(), overwrite=True)
    assert (tree(path), tree(elsewhere)) == before
    assert verify(path) == []


def test_a_store_that_was_stopped_while_it_was_made_anew_is_not_repaired_to_the_old_one(place: Place) -> None:
    path = write(place("s"), make_contents())
    assert fork_and_kill(lambda: write(path, make_contents(), overwrite=True), 40)
    assert not root_of(path).exists()
    message = f"^probe extract --overwrite of {str(path)!r} was stopped halfway; give the same command again$"
    with pytest.raises(StoreError, match=message):
        verify(path)
    assert verify(write(path, make_contents("int8"))) == []
