"""Watching the disk operations of a process, and killing it between them."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Set
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tokenprobe.store import durable, new_file
from tokenprobe.store.temporaries import file_of

DISK_STEPS = {"open", "os.mkdir", "os.link", "os.rename", "os.truncate", "os.remove", "os.rmdir", "step"}


def watch_disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """Record ("write" | "fsync", path) and ("rename" | "link", new path) of every call, which all really run.

    Consecutive writes to one file count once. A temporary name is shown as FILE.tmp, without its writer.
    """
    calls: list[tuple[str, Path]] = []
    write, fsync, rename, link = os.write, os.fsync, os.rename, os.link

    def record(call: str, path: Path) -> None:
        file = file_of(path.name)
        path = path if file is None else path.with_name(f"{file}.tmp")
        if call != "write" or calls[-1:] != [(call, path)]:
            calls.append((call, path))

    def of(fd: int) -> Path:
        return Path(os.readlink(f"/proc/self/fd/{fd}"))

    def watched_write(fd: int, data: Any) -> int:
        record("write", of(fd))
        return write(fd, data)

    def watched_fsync(fd: int) -> None:
        record("fsync", of(fd))
        fsync(fd)

    def watched_rename(old: Path, new: Path) -> None:
        record("rename", Path(new))
        rename(old, new)

    def watched_link(old: Path, new: Path) -> None:
        record("link", Path(new))
        link(old, new)

    watched = {"write": watched_write, "fsync": watched_fsync, "rename": watched_rename, "link": watched_link}
    for name, call in watched.items():
        monkeypatch.setattr(os, name, call)
    return calls


def fill_up_for(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Let a block's file find a full disk: /dev/full, which exists on every system, is opened in its place, once."""
    really_open = durable.open_new

    def open_new(path: Path) -> int:
        if file_of(str(path)) != str(file):
            return really_open(path)
        monkeypatch.setattr(new_file, "open_new", really_open)
        return os.open("/dev/full", os.O_WRONLY)

    monkeypatch.setattr(new_file, "open_new", open_new)


def fork_and_kill(work: Callable[[], object], step: int, events: Set[str] = DISK_STEPS) -> bool:
    """Run `work` in a fork that kills itself at its `step`-th step; return whether it got that far.

    Steps are opening, making, renaming and removing files, each batch and block handed over, or other events of
    Python's audit hook. Each write is a step too, and is torn in the middle.
    """
    return _fork(work, step, events)[0]


def count_steps(work: Callable[[], object], events: Set[str] = DISK_STEPS) -> int:
    """Run `work` in a fork and return the number of its steps."""
    return _fork(work, -1, events)[1]


def _fork(work: Callable[[], object], fatal: int, events: Set[str]) -> tuple[bool, int]:
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            steps = _count_steps_and_die_at(fatal, events)
            work()
            os.write(writing, str(next(steps)).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    status = os.waitpid(process, 0)[1]
    n_steps = int(os.read(reading, 20) or 0)
    os.close(reading)
    assert status in (0, signal.SIGKILL), "the fork failed, see above"
    return status == signal.SIGKILL, n_steps


def _count_steps_and_die_at(fatal: int, events: Set[str]) -> Iterator[int]:
    steps, write_really = count(), os.write

    def die(event: str, _: tuple[Any, ...]) -> None:
        if event in events and next(steps) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def torn_write(fd: int, data: Any) -> int:
        if next(steps) == fatal:
            write_really(fd, bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write_really(fd, data)

    sys.addaudithook(die)
    os.write = torn_write
    return steps
