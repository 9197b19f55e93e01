"""Checkpoints: what comes back, and what does not."""

from pathlib import Path

import pytest
import torch

from tokenprobe.probe.fitting import checkpoint
from tokenprobe.probe.fitting.checkpoint import Checkpoint

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
def test_what_is_no_checkpoint_is_not_used(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)
    assert Checkpoint(tmp_path, ["a"]).load() is None


def test_a_state_is_kept_every_half_minute_or_more_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 29.9, 30.0, 100.0, 103.0, 162.9, 163.0])
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: next(clock))
    made = Checkpoint(tmp_path, ["a"])
    assert [made.due(), made.due()] == [False, True]
    made.save(STATE)  # takes three seconds: not again before a minute is over
    assert [made.due(), made.due()] == [False, True]
