"""Checkpoints: what comes back, and what does not."""

import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tokenprobe.probe.fitting import checkpoint
from tokenprobe.probe.fitting.checkpoint import Checkpoint
from tokenprobe.store import Store

from ..kit import assert_same, fit_made, write_made

STATE = {"scorings": 3, "groups": [{"weight": torch.arange(3.0), "history": [{"cell": "a", "loss": float("nan")}]}]}


def test_a_state_comes_back_for_the_same_pass_only(tmp_path: Path) -> None:
    Checkpoint(tmp_path, ["a", "b"]).save(STATE)
    found = Checkpoint(tmp_path, ["a", "b"]).load()
    assert found is not None and found["scorings"] == 3
    assert torch.equal(found["groups"][0]["weight"], torch.arange(3.0))
    assert found["groups"][0]["history"][0]["cell"] == "a"
    assert Checkpoint(tmp_path, ["a"]).load() is None


def test_without_a_checkpoint_a_pass_begins_at_the_beginning(tmp_path: Path) -> None:
    made = Checkpoint(tmp_path, ["a"])
    assert made.load() is None
    made.save(STATE)
    made.remove()
    made.remove()
    assert made.load() is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"text"])
def test_what_is_no_checkpoint_is_not_used(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)
    assert Checkpoint(tmp_path, ["a"]).load() is None
    assert "checkpoint.pt is damaged, or was written by another version: the pass starts a" in caplog.messages[0]


@pytest.mark.parametrize("value", [{"x": 1}, [1], "text", {"about": ["layout 3", "a"], "state": {"scorings": 1}}])
def test_what_torch_can_load_may_be_no_checkpoint(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "checkpoint.pt")
    assert Checkpoint(tmp_path, ["a"]).load() is None


def test_a_number_that_changed_on_the_disk_is_not_used(tmp_path: Path) -> None:
    Checkpoint(tmp_path, ["a"]).save(STATE)
    path = tmp_path / "checkpoint.pt"
    content = path.read_bytes()
    place = content.index(torch.arange(3.0).numpy().tobytes())
    for bit in range(0, 96, 5):
        flipped = bytearray(content)
        flipped[place + bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert Checkpoint(tmp_path, ["a"]).load() is None
    path.write_bytes(content)
    assert Checkpoint(tmp_path, ["a"]).load() is not None


def test_a_checkpoint_that_the_disk_does_not_take_leaves_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = Checkpoint(tmp_path, ["a"])
    made.save(STATE)
    before, limits = (tmp_path / "checkpoint.pt").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        for _ in range(2):
            made.save(STATE | {"scorings": 4})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caplog.messages == [
        f"cannot write {tmp_path}/checkpoint.pt ({os.strerror(errno.EFBIG)}): the fit continues without a checkpoint"
    ]
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_fit_without_room_for_checkpoints_ends_as_any_other(
    write_store: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    whole = fit_made(store, tmp_path / "whole", layers="1")
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt.tmp").mkdir()  # in the way of every checkpoint
    assert_same(fit_made(store, tmp_path / "run", layers="1"), whole)


def test_a_state_is_kept_every_half_minute_or_more_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 29.9, 30.0, 100.0, 103.0, 162.9, 163.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    made = Checkpoint(tmp_path, ["a"])
    assert [made.due(), made.due()] == [False, True]
    made.save(STATE)  # takes three seconds: not again before a minute is over
    assert [made.due(), made.due()] == [False, True]
