"""One process leads a store at an address. A dead one gives way at once, or after some minutes."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tokenprobe.errors import LockedError
from tokenprobe.store import object_lock
from tokenprobe.store.lock import StoreLock
from tokenprobe.store.object_lock import ObjectLock, lock_of
from tokenprobe.store.objects import ObjectPath
from tokenprobe.store.temporaries import new_writer


@pytest.fixture
def folder(objects: ObjectPath) -> ObjectPath:
    return objects


def test_a_second_leader_is_refused_until_the_first_has_ended(folder: ObjectPath) -> None:
    with ObjectLock(folder):
        with pytest.raises(LockedError, match=r"is being written by process \d+ on .*; wait for it, or write to anoth"):
            ObjectLock(folder).__enter__()
        assert (folder / ".lock").is_file()
    assert not (folder / ".lock").is_file()
    with ObjectLock(folder):
        pass


def test_the_lock_of_a_dead_process_of_this_machine_is_taken_over(folder: ObjectPath) -> None:
    code = "from tokenprobe.store.temporaries import new_writer; print(new_writer())"
    dead = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    (folder / ".lock").write(f"process 1 on here, {dead}".encode())
    with ObjectLock(folder):
        assert new_writer().split("-")[:2] != dead.split("-")[:2]


def test_a_lock_from_elsewhere_expires(folder: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".lock").write(b"process 7 on far-away, 00000000-7-00000000")
    with pytest.raises(LockedError, match=r"written by process 7 on far-away; .* its lock expires within 10 min$"):
        ObjectLock(folder).__enter__()
    monkeypatch.setattr(object_lock, "QUIET", timedelta(0))
    with ObjectLock(folder):
        pass


def test_a_lock_is_renewed(folder: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_lock, "RENEWED_SECONDS", 0.001)
    with ObjectLock(folder):
        first = (folder / ".lock").head()
        while (folder / ".lock").head() == first:
            pass


def test_a_lock_that_another_took_over_is_left_to_it(folder: ObjectPath) -> None:
    with ObjectLock(folder):
        (folder / ".lock").write(b"process of another")
    assert (folder / ".lock").read_bytes() == b"process of another"


def test_the_place_decides_the_kind(folder: ObjectPath, tmp_path: Path) -> None:
    assert isinstance(lock_of(folder), ObjectLock)
    assert isinstance(lock_of(tmp_path), StoreLock)


def test_a_lock_is_renewed_on_after_the_answer_to_a_renewal_was_lost(
    folder: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_lock, "RENEWED_SECONDS", 0.001)
    with ObjectLock(folder) as lock:
        lost = (folder / ".lock").read_bytes()
        (folder / ".lock").write(lost)  # a renewal whose answer, the new version, never came
        for _ in range(3):
            last = (folder / ".lock").head()
            while (folder / ".lock").head() == last:
                assert lock._thread.is_alive()
