"""A journal of objects gives the records of a journal of lines, and stops a second leader."""

import json
from pathlib import Path

import pytest

from tokenprobe.errors import LockedError
from tokenprobe.store import object_journal
from tokenprobe.store.journal import FileRecord, Journal, read_entries, read_mark, read_records
from tokenprobe.store.merge import merge_journals, remove_journals
from tokenprobe.store.object_journal import ObjectJournal, open_journal
from tokenprobe.store.objects import ObjectPath

A, B, C = (FileRecord(name, size, "0" * 16) for size, name in enumerate("abc"))


@pytest.fixture
def folder(objects: ObjectPath) -> ObjectPath:
    return objects


def by_name(*records: FileRecord) -> dict[str, FileRecord]:
    return {record.file: record for record in records}


def test_records_of_all_writers_are_read_and_merged_into_one_object(folder: ObjectPath) -> None:
    leader, other = open_journal(folder), open_journal(folder, "other")
    leader.add_mark()
    leader.add_files([A])
    other.add_files([B])
    other.add_files([C])
    assert other.records == by_name(B, C)
    assert read_records(folder) == by_name(A, B, C)
    assert len(folder.bucket.sizes()) == 4
    remove_journals(folder, merge_journals(folder, leader))
    assert list(folder.bucket.sizes()) == ["journal.jsonl"]
    assert read_records(folder) == open_journal(folder).records == by_name(A, B, C)
    first = json.loads((folder / "journal.jsonl").read_bytes().split(b"\n")[0])
    assert first["event"] == "made" and json.loads(read_mark(folder)) == first


def test_a_record_that_contradicts_the_leaders_own_replaces_it(folder: ObjectPath) -> None:
    leader = open_journal(folder)
    leader.add_files([A])
    leader.add_event("start")
    again = FileRecord("a", 0, "1" * 16)
    leader.add_files([again, B])
    assert read_records(folder) == by_name(again, B)


def test_the_order_of_events_and_records_is_kept(folder: ObjectPath, tmp_path: Path) -> None:
    journals = [open_journal(folder), open_journal(tmp_path)]
    for journal in journals:
        journal.add_event("start", number=1)
        journal.add_files([A, B])
        journal.add_root(FileRecord("manifest", 3, "2" * 16), {"format": 1})
        journal.add_event("finish")
        journal.close()
    assert isinstance(journals[1], Journal) and not isinstance(journals[1], ObjectJournal)
    assert list(read_entries(folder)) == list(read_entries(tmp_path))


def test_small_objects_are_gathered_before_they_are_many(folder: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_journal, "MOST_OBJECTS", 3)
    leader, records = open_journal(folder), [FileRecord(f"f{n}", n, "0" * 16) for n in range(9)]
    for record in records:
        leader.add_files([record])
        assert len(folder.bucket.sizes()) <= 4
    assert read_records(folder) == by_name(*records)


def test_of_two_leaders_the_earlier_one_stops(folder: ObjectPath) -> None:
    early, late = open_journal(folder), open_journal(folder)
    late.add_mark()
    with pytest.raises(LockedError, match=r"^another process began to lead '.*://.*', so this one stops; finished"):
        early.add_event("start")
    early.add_files([A])  # does no harm
    assert read_records(folder) == by_name(A)


def test_a_torn_last_line_of_a_copied_journal_is_left_out(folder: ObjectPath) -> None:
    line = json.dumps(vars(A)).encode()
    (folder / "journal.jsonl").write(line + b"\n" + line[:9])
    leader = open_journal(folder)
    leader.add_event("start")
    assert read_records(folder) == by_name(A) and len(list(read_entries(folder))) == 2


def test_clearing_leaves_an_empty_journal(folder: ObjectPath) -> None:
    leader = open_journal(folder)
    leader.add_event("start")
    leader.add_files([A])
    leader.clear()
    assert (folder / "journal.jsonl").read_bytes() == b"" and leader.records == {}
