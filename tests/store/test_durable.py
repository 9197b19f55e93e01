"""A write leaves either the old file or the complete new one."""

import errno
import os
import resource
from functools import partial
from pathlib import Path

import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store.durable import (
    open_in_shared_folder,
    open_kept,
    publish,
    publish_object,
    remove_durably,
    rename_durably,
    sync_tree,
    take_name,
    write_durably,
)
from tokenprobe.store.objects import ObjectPath

Calls = list[tuple[str, Path]]


def test_the_new_bytes_replace_the_old_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "zarr.json"
    for data in (b"the old and longer one", b"new"):
        write_durably(path, data)
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "zarr.json"
    write_durably(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=f"{os.strerror(errno.EFBIG)}: '{path}'"):
            write_durably(path, bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    write_durably(path, b"new")
    assert path.read_bytes() == b"new"


def test_the_data_is_on_disk_before_the_name_and_the_name_before_the_return(tmp_path: Path, disk_calls: Calls) -> None:
    path = tmp_path / "file"
    write_durably(path, b"data")
    assert disk_calls == [("fsync", tmp_path / "file.tmp"), ("rename", path), ("fsync", tmp_path)]


def test_removed_files_are_gone_for_good_and_others_stay(tmp_path: Path, disk_calls: Calls) -> None:
    names = ("a/one", "a/two", "b/one", "b/kept")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    remove_durably(tmp_path / name for name in (*names[:3], "b/absent", "absent/one"))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "b/kept"]
    assert sorted(disk_calls) == [("fsync", tmp_path / "a"), ("fsync", tmp_path / "b")]


def test_a_failed_rename_leaks_no_descriptor(tmp_path: Path) -> None:
    n_open = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        rename_durably(tmp_path / "absent", tmp_path / "file")
    assert len(os.listdir("/proc/self/fd")) == n_open


def test_a_tree_is_synced_with_all_its_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b/c/d", "b/e"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    sync_tree(tmp_path)
    assert sorted(synced) == sorted(path.stat().st_ino for path in (tmp_path, *tmp_path.rglob("*")))


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """A temporary name, or the name itself, may be a link in a store that somebody else made."""
    mine, path = tmp_path / "mine", tmp_path / "zarr.json"
    mine.write_bytes(b"mine")
    for link in (path.with_name("zarr.json.tmp"), path):
        link.symlink_to(mine)
        write_durably(path, b"new")
        assert (mine.read_bytes(), path.read_bytes(), path.is_symlink()) == (b"mine", b"new", False)
        path.unlink()


def test_a_file_that_is_kept_is_made_and_opened_but_not_through_a_link(tmp_path: Path) -> None:
    mine, path = tmp_path / "mine", tmp_path / "kept"
    for _ in range(2):
        fd = open_kept(path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"x")
        os.close(fd)
    assert path.read_bytes() == b"xx"
    path.unlink()
    path.symlink_to(mine)
    with pytest.raises(StoreError, match=f"^'{path}' is a symbolic link, which is never written through; remove it$"):
        open_kept(path, os.O_WRONLY)
    assert not mine.exists()
    with pytest.raises(IsADirectoryError):
        open_kept(tmp_path, os.O_WRONLY)


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_file_takes_a_free_name_and_leaves_another_files_name_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", _refuse_links)
    path = tmp_path / "c.0"
    for data, there, ours in ((b"one", b"one", True), (b"two", b"one", False), (b"longer", b"longer", True)):
        temporary = tmp_path / "c.0.tmp"
        temporary.write_bytes(data)
        assert publish(temporary, path, len(data)) == ours
        assert (path.read_bytes(), list(tmp_path.iterdir())) == (there, [path])


def _refuse_links(*_: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_a_temporary_file_that_was_cleared_away_is_missed_only_without_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.0"
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "absent", path, 3)
    path.write_bytes(b"one")
    assert publish(tmp_path / "absent", path, 3) is False
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "absent", path, 4)


def test_a_folder_that_others_remove_while_it_is_empty_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed_twice(path: Path, flags: int, calls: list[int] = []) -> int:  # noqa: B006
        calls.append(flags)
        if len(calls) < 3:
            path.parent.rmdir()
        return open_kept(path, flags)

    monkeypatch.setattr("tokenprobe.store.durable.open_kept", removed_twice)
    os.close(open_in_shared_folder(tmp_path / "journal.d" / "a", os.O_RDWR))
    assert (tmp_path / "journal.d" / "a").read_bytes() == b""
    with pytest.raises(FileNotFoundError):
        open_in_shared_folder(tmp_path / "absent" / "journal.d" / "a", os.O_RDWR)


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_name_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", _refuse_links)
    for content, first in ((b"one", True), (b"longer", False)):
        (tmp_path / "new").unlink(missing_ok=True)
        (tmp_path / "new").write_bytes(content)
        assert take_name(tmp_path / "new", tmp_path / "plan") is first
    assert (tmp_path / "plan").read_bytes() == b"one"


def test_an_object_that_gives_way_is_replaced_only_if_it_is_still_the_one_looked_at(objects: ObjectPath) -> None:
    """Meanwhile another writer replaces it, or removes it."""
    path = objects / "a/b"
    path.write(b"old")
    assert publish_object(path, b"new") is False and path.read_bytes() == b"old"
    assert publish_object(path, b"new", lambda: False) is True and path.read_bytes() == b"new"
    asked: list[int] = []

    def replaced_meanwhile() -> bool:
        asked.append(1)
        if len(asked) == 1:
            path.write(b"two")
        return len(asked) == 2

    assert publish_object(path, b"one", replaced_meanwhile) is False
    assert path.read_bytes() == b"two" and len(asked) == 2

    def removed_meanwhile() -> bool:
        path.unlink()
        return False

    assert publish_object(path, b"new", removed_meanwhile) is True
    assert path.read_bytes() == b"new"


def test_a_file_that_gives_way_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    for stays, content in ((True, b"old"), (False, b"new")):
        (tmp_path / "temporary").write_bytes(b"new")
        assert publish(tmp_path / "temporary", tmp_path / "a", 3, partial(bool, stays)) is not stays
        assert (tmp_path / "a").read_bytes() == content
