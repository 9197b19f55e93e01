"""The journal holds whole lines, despite threads, kills and full disks."""

import json
import os
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tokenprobe.errors import StoreError
from tokenprobe.store.journal import (
    NAME,
    FileRecord,
    Journal,
    find_records,
    finished_files,
    is_being_emptied,
    is_ours,
    read_mark,
    read_records,
    root_entries,
)

ONE, TWO = FileRecord("train/a", 10, "0" * 16), FileRecord("train/b", 20, "f" * 16)


def test_a_store_without_a_journal_has_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path) == {}


def test_records_and_events_are_lines_of_json_and_only_records_count(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add_event("start", host="här", batch_size=4)
    journal.add_files(record for record in (ONE, TWO))
    journal.close()
    assert [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()] == [
        {"event": "start", "host": "här", "batch_size": 4},
        {"file": "train/a", "size": 10, "xxh3": "0" * 16},
        {"file": "train/b", "size": 20, "xxh3": "f" * 16},
    ]
    assert journal.records == read_records(tmp_path) == {"train/a": ONE, "train/b": TWO}


def test_the_last_record_of_a_file_counts(tmp_path: Path) -> None:
    again = FileRecord(ONE.file, 11, "1" * 16)
    for record in (ONE, again):
        append(tmp_path, record)
    assert read_records(tmp_path) == {ONE.file: again}


def test_a_removed_file_has_no_record_until_it_is_made_again(tmp_path: Path) -> None:
    journal, again = Journal(tmp_path), FileRecord(ONE.file, ONE.size, "1" * 16)
    journal.add_files([ONE, TWO])
    journal.cancel([ONE.file, "train/never recorded"])
    assert journal.records == read_records(tmp_path) == find_records(tmp_path, [ONE.file, TWO.file]) == {TWO.file: TWO}
    size = (tmp_path / NAME).stat().st_size
    journal.cancel([ONE.file])
    assert (tmp_path / NAME).stat().st_size == size
    other = Journal(tmp_path, "12345678-1-12345678")
    other.add_files([again])
    other.close()
    assert read_records(tmp_path) == {ONE.file: again, TWO.file: TWO}
    journal.add_files([ONE])
    journal.close()
    assert read_records(tmp_path) == {ONE.file: ONE, TWO.file: TWO}


@pytest.mark.parametrize("files", ["train/a", {"train/a": 1}, None, [["train/a"]], [1]], ids=str)
def test_a_line_that_cancels_no_names_is_ignored(tmp_path: Path, files: object) -> None:
    append(tmp_path, ONE)
    with open(tmp_path / NAME, "a") as lines:
        lines.write(json.dumps({"event": "removed", "files": files}) + "\n")
    assert read_records(tmp_path) == {ONE.file: ONE}


@pytest.mark.parametrize("n_kept", [1, 20, -1])
def test_a_torn_last_line_is_ignored_in_reading_and_cut_off_in_opening(tmp_path: Path, n_kept: int) -> None:
    append(tmp_path, ONE)
    whole = (tmp_path / NAME).read_bytes()
    append(tmp_path, TWO)
    torn = (tmp_path / NAME).read_bytes()[len(whole) :][:n_kept]
    (tmp_path / NAME).write_bytes(whole + torn)
    assert read_records(tmp_path) == {ONE.file: ONE}
    assert (tmp_path / NAME).read_bytes() == whole + torn
    append(tmp_path, TWO)
    assert read_records(tmp_path) == {ONE.file: ONE, TWO.file: TWO}
    assert len((tmp_path / NAME).read_bytes().splitlines()) == 2


def test_a_journal_of_nothing_but_a_torn_line_is_empty(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b'{"file": "tr')
    assert read_records(tmp_path) == {}
    append(tmp_path, ONE)
    assert read_records(tmp_path) == {ONE.file: ONE}


def test_threads_that_append_at_once_keep_whole_lines(tmp_path: Path) -> None:
    journal, start = Journal(tmp_path), Barrier(4)

    def add(thread: int) -> None:
        start.wait(10)
        for number in range(20):
            journal.add_files(FileRecord(f"{thread}/{number}/{i}" + "x" * 300, i, "0") for i in range(3))
            journal.add_event("tick", thread=thread)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(add, range(4)))
    finally:
        sys.setswitchinterval(interval)
    journal.close()
    entries = [json.loads(line) for line in (tmp_path / NAME).read_bytes().splitlines()]
    assert len(entries) == 4 * 20 * 4
    assert len(read_records(tmp_path)) == len(journal.records) == 4 * 20 * 3


def test_a_line_that_the_disk_takes_only_half_of_is_an_error_and_does_no_harm(tmp_path: Path) -> None:
    """A write on a nearly full disk returns fewer bytes than given, without an error."""
    append(tmp_path, ONE)
    journal = Journal(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / NAME).stat().st_size + 20, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            journal.add_files([TWO])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert TWO.file not in journal.records
    assert (tmp_path / NAME).read_bytes().endswith(b"}\n"), "no half of a line is left for the next to stick to"
    journal.add_files([TWO])
    journal.close()
    assert read_records(tmp_path) == {ONE.file: ONE, TWO.file: TWO}


def test_what_is_recorded_is_on_disk_before_the_call_returns(
    tmp_path: Path, disk_calls: list[tuple[str, Path]]
) -> None:
    journal = Journal(tmp_path)
    for add in (
        lambda: journal.add_files([ONE, TWO]),
        lambda: journal.add_root(ONE, {}),
        lambda: journal.add_event("start"),
    ):
        disk_calls.clear()
        add()
        assert disk_calls == [("write", tmp_path / NAME), ("fsync", tmp_path / NAME)]
    journal.close()


def append(store: Path, record: FileRecord) -> None:
    journal = Journal(store)
    journal.add_files([record])
    journal.close()


def test_a_damaged_line_records_nothing_and_hides_no_other(tmp_path: Path) -> None:
    good = [b'{"file": "a", "size": 1, "xxh3": "0"}', b'{"file": "c", "size": 2, "xxh3": "1"}']
    lines = [good[0], b"\xff\xfe", b'{"file": "b"}', b"[1]", good[1], b""]
    (tmp_path / "journal.jsonl").write_bytes(b"\n".join(lines))
    assert list(read_records(tmp_path)) == ["a", "c"]


def test_the_root_is_recorded_with_its_content_and_the_last_two_are_given_the_latest_first(tmp_path: Path) -> None:
    assert root_entries(tmp_path) == []
    journal = Journal(tmp_path)
    for number in range(3):
        journal.add_root(FileRecord("manifest", number, "0" * 16), {"complete": number == 2})
        journal.add_files([ONE])
        journal.add_event("tick", content={})
    journal.close()
    entries = root_entries(tmp_path)
    assert [(entry["file"], entry["size"], entry["content"]) for entry in entries] == [
        ("manifest", 2, {"complete": True}),
        ("manifest", 1, {"complete": False}),
    ]


def test_finished_are_the_recorded_files_that_are_there_with_their_size(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for record in (ONE, TWO, FileRecord("train/c", 5, "0" * 16)):
        append(tmp_path, record)
    (tmp_path / ONE.file).write_bytes(bytes(10))
    (tmp_path / TWO.file).write_bytes(bytes(19))
    (tmp_path / "train/d").write_bytes(b"foreign")
    assert finished_files(tmp_path) == {ONE.file: ONE}


def test_a_journal_that_is_a_link_is_not_written(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("no line")
    (tmp_path / NAME).symlink_to(mine)
    with pytest.raises(StoreError, match="is a symbolic link, which is never written through"):
        Journal(tmp_path)
    assert mine.read_text() == "no line"


@pytest.mark.parametrize(
    "record",
    [
        {"file": "../a", "size": 1, "xxh3": "0"},
        {"file": "a/../../b", "size": 1, "xxh3": "0"},
        {"file": "/etc/passwd", "size": 1, "xxh3": "0"},
        {"file": "a//b", "size": 1, "xxh3": "0"},
        {"file": "", "size": 1, "xxh3": "0"},
        {"file": ".", "size": 1, "xxh3": "0"},
        {"file": "a\x00", "size": 1, "xxh3": "0"},
        {"file": "\ud800", "size": 1, "xxh3": "0"},
        {"file": "a" * 1001, "size": 1, "xxh3": "0"},
        {"file": ["a"], "size": 1, "xxh3": "0"},
        {"file": "a", "size": "1", "xxh3": "0"},
        {"file": "a", "size": -1, "xxh3": "0"},
        {"file": "a", "size": 2**63, "xxh3": "0"},
        {"file": "a", "size": True, "xxh3": "0"},
        {"file": "a", "size": 1.0, "xxh3": "0"},
        {"file": "a", "size": 1, "xxh3": None},
    ],
    ids=str,
)
def test_a_record_that_is_damaged_or_leads_elsewhere_counts_for_nothing(
    tmp_path: Path, record: dict[str, object]
) -> None:
    append(tmp_path, ONE)
    with open(tmp_path / NAME, "a") as file:
        file.write(json.dumps(record) + "\n" + json.dumps({**record, "content": {}}) + "\n")
    assert read_records(tmp_path) == finished_files(tmp_path) | {ONE.file: ONE} == {ONE.file: ONE}
    assert root_entries(tmp_path) == []


def test_a_line_that_is_nested_too_deeply_counts_for_nothing(tmp_path: Path) -> None:
    append(tmp_path, ONE)
    with open(tmp_path / NAME, "a") as file:
        file.write("[" * 100_000 + "\n" + '{"a":' * 100_000 + "\n")
    assert read_records(tmp_path) == {ONE.file: ONE}


def test_a_few_records_are_found_among_all(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    again = FileRecord(ONE.file, 11, "1" * 16)
    journal.add_files([ONE, TWO, FileRecord("train/abc", 1, "0"), FileRecord("träin/ü", 1, "0"), again])
    journal.close()
    assert find_records(tmp_path, ["train/a", "träin/ü", "none"]) == {
        "train/a": again,
        "träin/ü": FileRecord("träin/ü", 1, "0"),
    }


@pytest.mark.parametrize(
    ("content", "ours"),
    [
        (b"", True),
        (b'{"event": "start"}\n', True),
        (b'{"event": "start"}\n{"file": "a", "size": 1, "xxh3": "0"}\n', True),
        (b'{"event": "start"}\n{"fi', True),
        (b'{"event": "start"}\n{"file": "a", "si', True),
        (b'{"event": "start"}\n{"date": 1}\n', False),
        (b'{"event": "start"}\n{"date', False),
        (b'{"event": "start"}\n\n', False),
        (b'{"event": "start"\n', False),
        (b"{}\n", False),
        (b"dear diary", False),
    ],
)
def test_a_journal_is_told_from_a_file_of_that_name(tmp_path: Path, content: bytes, ours: bool) -> None:
    (tmp_path / NAME).write_bytes(content)
    assert is_ours(tmp_path / NAME) == ours


def test_a_journal_says_that_its_files_are_to_go_until_something_follows(tmp_path: Path) -> None:
    assert not is_being_emptied(tmp_path)
    journal = Journal(tmp_path)
    journal.add_files([ONE])
    assert not is_being_emptied(tmp_path)
    journal.add_event("emptied")
    assert is_being_emptied(tmp_path)
    journal.add_event("start")
    assert not is_being_emptied(tmp_path)
    journal.clear()
    assert (tmp_path / NAME).read_bytes() == b"" and journal.records == {}
    journal.add_event("emptied")
    journal.close()
    with open(tmp_path / NAME, "a") as file:
        file.write("dear diary\n")
    assert not is_being_emptied(tmp_path), "it is somebody else's"


def test_a_journal_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    odd: list[tuple[Callable[[Path], object], str]] = [
        (lambda path: path.symlink_to(NAME), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("/dev/zero"), "it is not a plain file"),
        (os.mkfifo, "it is not a plain file"),
        (Path.mkdir, "it is not a plain file"),
    ]
    for number, (make, why) in enumerate(odd):
        folder = tmp_path / str(number)
        folder.mkdir()
        make(folder / NAME)
        with pytest.raises(StoreError, match=f"^cannot read the journal '{folder / NAME}': {why}$"):
            read_records(folder)
        assert read_mark(folder) == b""
