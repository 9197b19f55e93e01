"""Watching the disk operations of a process, and letting them fail."""

import os
from pathlib import Path
from typing import Any

import pytest

from tokenprobe.store import durable, new_file
from tokenprobe.store.temporaries import file_of


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
