"""The leader's journal takes over what other writers recorded, and a file decides between records that differ."""

from pathlib import Path

import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store.journal import FOLDER, NAME, FileRecord, Journal, file_record, read_records, writer_journals
from tokenprobe.store.merge import merge_journals, remove_journals

ONE, TWO = FileRecord("a", 3, "0" * 16), FileRecord("b", 3, "f" * 16)


def record(folder: Path, writer: str | None, *records: FileRecord) -> None:
    journal = Journal(folder, writer)
    journal.add_files(records)
    journal.close()


def merged(folder: Path) -> dict[str, FileRecord]:
    leader = Journal(folder)
    merge_journals(folder, leader)
    leader.close()
    return leader.records


def test_records_of_all_writers_are_read_and_copied_once(tmp_path: Path) -> None:
    record(tmp_path, "one", ONE)
    record(tmp_path, "two", TWO)
    assert read_records(tmp_path) == {"a": ONE, "b": TWO}
    assert not (tmp_path / NAME).exists()
    assert merged(tmp_path) == {"a": ONE, "b": TWO}
    content = (tmp_path / NAME).read_bytes()
    assert merged(tmp_path) == {"a": ONE, "b": TWO}
    assert (tmp_path / NAME).read_bytes() == content
    remove_journals(tmp_path, writer_journals(tmp_path))
    assert not (tmp_path / FOLDER).exists()
    assert read_records(tmp_path) == {"a": ONE, "b": TWO}


def test_of_two_records_that_differ_the_one_of_the_file_counts(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    there = file_record(tmp_path, "a")
    record(tmp_path, None, ONE)
    record(tmp_path, "one", there)
    assert read_records(tmp_path)["a"] == ONE, "the leader's counts"
    assert merged(tmp_path)["a"] == there
    record(tmp_path, "two", FileRecord("a", 3, "7" * 16))
    assert merged(tmp_path)["a"] == read_records(tmp_path)["a"] == there


def test_a_record_of_a_file_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    record(tmp_path, None, ONE)
    record(tmp_path, "one", FileRecord("a", 3, "7" * 16))
    assert merged(tmp_path) == {"a": ONE}


def test_a_torn_line_of_a_killed_writer_is_left_out(tmp_path: Path) -> None:
    record(tmp_path, "one", ONE, TWO)
    (journal,) = writer_journals(tmp_path)
    assert isinstance(journal, Path)
    journal.write_bytes(journal.read_bytes()[:-5])
    assert merged(tmp_path) == {"a": ONE}


def test_a_folder_of_journals_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    store, other = tmp_path / "store", tmp_path / "other"
    store.mkdir()
    other.mkdir()
    record(other, "one", ONE)
    (store / FOLDER).symlink_to(other / FOLDER)
    assert read_records(store) == {}
    with pytest.raises(StoreError, match="is a symbolic link, which is never written through"):
        Journal(store, "two")
