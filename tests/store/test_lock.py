"""One writer at a time, and never a lock without a living holder. Real processes throughout."""

import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tokenprobe.errors import LockedError, StoreError
from tokenprobe.store.lock import NAME, StoreLock


def test_a_second_lock_is_refused_and_names_the_holder(tmp_path: Path) -> None:
    with forked(lambda tell: hold(tmp_path, tell)) as (holder, _):
        for _ in range(2):  # the refused writer neither takes nor changes the lock
            with pytest.raises(LockedError) as raised, StoreLock(tmp_path):
                pass
            assert str(raised.value) == (
                f"{str(tmp_path)!r} is being written by process {holder} on {socket.gethostname()}; "
                "wait for it, or write to another folder"
            )


def test_a_second_lock_of_the_same_process_is_refused(tmp_path: Path) -> None:
    with StoreLock(tmp_path), pytest.raises(LockedError, match=f"process {os.getpid()} "), StoreLock(tmp_path):
        pass


def test_a_holder_that_has_not_said_its_name_is_another_process(tmp_path: Path) -> None:
    with StoreLock(tmp_path):
        (tmp_path / NAME).write_bytes(b"")
        with pytest.raises(LockedError, match="is being written by another process; wait"), StoreLock(tmp_path):
            pass


def test_a_killed_holder_holds_no_more(tmp_path: Path) -> None:
    with forked(lambda tell: hold(tmp_path, tell)) as (holder, _):
        kill(holder)
        with StoreLock(tmp_path):
            assert (tmp_path / NAME).read_text() == f"process {os.getpid()} on {socket.gethostname()}"


def test_a_forked_child_does_not_keep_the_lock_of_its_killed_parent(tmp_path: Path) -> None:
    """As when a DataLoader worker outlives an extraction that was killed with -9."""

    def hold_with_a_child(tell: Callable[[int], None]) -> None:
        with StoreLock(tmp_path):
            if os.fork() == 0:
                tell(os.getpid())
            signal.pause()

    with forked(hold_with_a_child) as (holder, child):
        try:
            with pytest.raises(LockedError), StoreLock(tmp_path):
                pass
            kill(holder)
            os.kill(child, 0)  # it lives
            with StoreLock(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_forked_child_leaving_the_block_does_not_release_the_lock_of_its_parent(tmp_path: Path) -> None:
    def leave(tell: Callable[[int], None]) -> None:
        lock.__exit__(None, None, None)
        tell(0)
        signal.pause()

    with StoreLock(tmp_path) as lock, forked(leave), pytest.raises(LockedError), StoreLock(tmp_path):
        pass


def test_the_lock_is_released_at_the_end_and_by_an_error_and_its_file_does_no_harm(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="in the middle"), StoreLock(tmp_path):
            raise RuntimeError("in the middle")
        assert [path.name for path in tmp_path.iterdir()] == [NAME]
    (tmp_path / NAME).write_text("process 1 on a machine with a name much longer than that of this one" * 3)
    with StoreLock(tmp_path):
        assert (tmp_path / NAME).read_text() == f"process {os.getpid()} on {socket.gethostname()}"


def test_a_refused_lock_leaks_no_descriptor(tmp_path: Path) -> None:
    with StoreLock(tmp_path):
        n_open = len(os.listdir("/proc/self/fd"))
        with pytest.raises(LockedError), StoreLock(tmp_path):
            pass
        assert len(os.listdir("/proc/self/fd")) == n_open


@pytest.mark.parametrize("there", [True, False])
def test_a_lock_that_is_a_link_leads_to_no_other_file(tmp_path: Path, there: bool) -> None:
    mine, store = tmp_path / "mine", tmp_path / "store"
    store.mkdir()
    if there:
        mine.write_text("a file of mine")
    (store / NAME).symlink_to(mine)
    message = f"^'{store / NAME}' is a symbolic link, which is never written through; remove it$"
    with pytest.raises(StoreError, match=message), StoreLock(store):
        pass
    assert mine.exists() == there and (not there or mine.read_text() == "a file of mine")


def test_a_holder_that_says_anything_else_does_not_act_on_the_terminal(tmp_path: Path) -> None:
    with StoreLock(tmp_path):
        (tmp_path / NAME).write_bytes(b"\x1b[31mprocess\n\xff")
        with pytest.raises(LockedError, match=r"is being written by \\x1b\[31mprocess\\n�; wait"), StoreLock(tmp_path):
            pass


def hold(store: Path, tell: Callable[[int], None]) -> None:
    with StoreLock(store):
        tell(0)
        signal.pause()


@contextmanager
def forked(work: Callable[[Callable[[int], None]], None]) -> Iterator[tuple[int, int]]:
    """Run `work` in a fork; once it has sent its message, yield process and message."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            work(lambda number: (os.write(writing, f"{number}\n".encode()), None)[1])
        finally:
            os._exit(1)
    os.close(writing)
    try:
        told = os.read(reading, 100)
        assert told, "the forked process failed"
        yield process, int(told)
    finally:
        os.close(reading)
        kill(process)


def kill(process: int) -> None:
    """Kill a child and wait for it, unless that has been done."""
    try:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(fd: int, how: int) -> None:
        raise OSError(error, os.strerror(error))

    n_open = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr("tokenprobe.store.lock.fcntl.flock", refuse)
    with StoreLock(tmp_path), StoreLock(tmp_path):
        pass
    assert len(os.listdir("/proc/self/fd")) == n_open
    error = errno.EIO
    with pytest.raises(OSError, match="Input/output"), StoreLock(tmp_path):
        pass
    assert len(os.listdir("/proc/self/fd")) == n_open
