"""Objects answer as the files of the same names do."""

from pathlib import Path
from typing import Any, TypeVar

import pytest

from tokenprobe.store.objects import Bucket, ObjectPath, remove_objects, size_of

P = TypeVar("P", Path, ObjectPath)


def put(place: P, data: bytes) -> P:
    place.parent.mkdir(parents=True, exist_ok=True)
    (place.write if isinstance(place, ObjectPath) else place.write_bytes)(data)
    return place


def test_objects_answer(objects: ObjectPath) -> None:
    check_answers(objects)


def test_files_answer_alike(tmp_path: Path) -> None:
    check_answers(tmp_path)


def check_answers(folder: Any) -> None:
    one = put(folder / "a/b/c.0.jsonl", b"123")
    assert (one.name, one.stem, one.suffix) == ("c.0.jsonl", "c.0", ".jsonl")
    assert one.parent.parent.parent == folder and str(one) == f"{folder}/a/b/c.0.jsonl"
    assert str(one.relative_to(folder)) == "a/b/c.0.jsonl" and one.with_name("d") == folder / "a/b/d"
    assert [(place.is_file(), place.is_dir(), place.exists()) for place in (one, one.parent, folder / "none")] == [
        (True, False, True),
        (False, True, True),
        (False, False, False),
    ]
    put(folder / "a/d", b"")
    assert {place.name for place in (folder / "a").iterdir()} == {"b", "d"}
    assert one.read_bytes() == b"123" and size_of(one) == 3 and size_of(folder / "none") is None
    one.unlink()
    one.unlink(missing_ok=True)
    assert not one.exists() and size_of(one) is None
    with pytest.raises(FileNotFoundError):
        one.read_bytes()


def test_ranges_and_beginnings_are_read(objects: ObjectPath) -> None:
    one = put(objects / "x", bytes(range(100)))
    assert [bytes(data) for data in one.read_ranges([(3, 5), (50, 52)])] == [b"\x03\x04", b"\x32\x33"]
    assert [bytes(data) for data in one.read_ranges([(98, 100)])] == [b"\x62\x63"]
    assert one.read_start(2) == b"\x00\x01" and one.read_start(1000) == bytes(range(100))
    assert put(one.with_name("empty"), b"").read_start(5) == b""


def test_a_conditional_write_replaces_nothing_unseen(objects: ObjectPath) -> None:
    one = objects / "x"
    first = one.write_if(b"1", None)
    with pytest.raises(FileExistsError):
        one.write_if(b"2", None)
    second = one.write_if(b"3", first)
    with pytest.raises(FileExistsError):
        one.write_if(b"4", first)
    assert one.read_with_version() == (b"3", second)


def test_sizes_are_listed_once_and_follow_this_process(objects: ObjectPath) -> None:
    bucket, other = objects.bucket, Bucket(objects.bucket.address)
    put(ObjectPath(other, "a"), b"1")
    assert bucket.size_of("a") == 1
    put(ObjectPath(bucket, "b"), b"12")
    put(ObjectPath(other, "c"), b"123")
    assert [bucket.size_of(name) for name in "abc"] == [1, 2, None]
    assert bucket.sizes() == {"a": 1, "b": 2, "c": 3}
    remove_objects([ObjectPath(bucket, name) for name in ("none", "a", "c")])
    assert bucket.size_of("a") is None and bucket.sizes() == {"b": 2}


def test_lists_have_every_name_however_many(objects: ObjectPath) -> None:
    names = [f"{folder}/{number}" for folder in ("a", "b.c", "b") for number in range(25)]
    for name in names:
        (objects / name).write(b"1")
    assert sorted(objects.bucket.sizes()) == sorted(names)
    assert [place.name for place in objects.iterdir()] == ["a", "b", "b.c"]
    assert len(list((objects / "b").iterdir())) == 25
    remove_objects([objects / name for name in [*names, "none"]])
    assert objects.bucket.sizes() == {} and not objects.exists()
