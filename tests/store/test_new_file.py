"""A file or an object appears whole, under its name, or not at all."""

import os
from pathlib import Path
from uuid import uuid4

import pytest

from tokenprobe.store.new_file import NewFile, NewObject, new_file
from tokenprobe.store.objects import Bucket, ObjectPath, Place
from tokenprobe.store.temporaries import new_writer


@pytest.fixture(params=["file", "object"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    top: Place = tmp_path if request.param == "file" else ObjectPath(Bucket(f"memory://{uuid4().hex}"))
    return top / "a/b"


def begin(place: Place, data: bytes) -> NewFile | NewObject:
    made = new_file(place, new_writer())
    os.write(made.fd, data)
    return made


def test_it_appears_when_it_is_published_and_replaces_no_other(place: Place) -> None:
    first, second, shorter = (begin(place, data) for data in (b"111", b"222", b"3"))
    assert not place.is_file()
    assert first.publish(3)
    assert not second.publish(3) and place.read_bytes() == b"111"
    assert shorter.publish(1) and place.read_bytes() == b"3"  # the other had another size, so it was damaged
    assert [each.name for each in place.parent.iterdir()] == ["b"]


def test_what_is_abandoned_leaves_nothing(place: Place) -> None:
    n_open = len(os.listdir("/proc/self/fd"))
    begin(place, b"1").abandon()
    assert not place.exists() and len(os.listdir("/proc/self/fd")) == n_open


def test_an_object_grows_in_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = begin(ObjectPath(Bucket("memory://x"), "y"), b"1")
    assert list(tmp_path.iterdir()) == []
    made.abandon()
