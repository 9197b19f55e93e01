"""Files of wandb offline, read back with its own messages. Nothing is sent."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tokenprobe.errors import InputError
from tokenprobe.probe.logs.wandb import read_noted
from tokenprobe.probe.run.results import Run
from tokenprobe.store import Store

from ..kit import fit_made, write_made

wandb = pytest.importorskip("wandb", reason="wandb is not installed")
BLOCK = 2**15
SETTINGS: dict[str, Any] = {"heads": ["ep:queries=4"], "val": 0.2, "log": "wandb"}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "own"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_X_DISABLE_STATS", "true")


def chunks_of(content: bytes) -> Iterator[bytes]:
    """Read wandb's form of a LevelDB log: a header, then blocks of 32 KiB with records of checksum, length and type."""
    assert content[:4] == b":W&B"
    place, parts = 7, b""
    while place + 7 <= len(content):
        room = BLOCK - place % BLOCK
        if room < 7:
            place += room
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def records_of(run: Run) -> list[Any]:
    from wandb.proto import wandb_internal_pb2

    files = sorted(run.path.glob("wandb/offline-run-*/run-*.wandb"))
    return [wandb_internal_pb2.Record.FromString(chunk) for file in files for chunk in chunks_of(file.read_bytes())]


def history_of(run: Run) -> list[dict[str, Any]]:
    return [{"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            for record in records_of(run) if record.WhichOneof("record_type") == "history"]  # fmt: skip


@pytest.mark.usefixtures("offline")
def test_curves_are_those_of_the_history_once_and_results_are_a_table(
    write_store: Callable[..., Store], tmp_path: Path
) -> None:
    store = write_made(write_store, tmp_path / "s.zarr")
    fit_made(store, tmp_path / "run", **SETTINGS | {"layers": "0"})
    run = fit_made(store, tmp_path / "run", **SETTINGS)
    history = history_of(run)
    for layer in (0, 1):
        key = f"held-out top-1/layer 0{layer}, none ep:queries=4, lr 1 to 10"
        points = [(each["epoch"], each[key]) for each in history if key in each]
        best = run.history[run.history["cell"].str.contains(f"layer_0{layer}")].groupby("epoch")["val_top1"].max()
        assert dict(points) == pytest.approx(best.to_dict()) and len(points) == 4
    records = records_of(run)
    assert len({record.run.run_id for record in records if record.WhichOneof("record_type") == "run"}) == 1
    assert "error" not in {record.WhichOneof("record_type") for record in records}
    axes = {record.metric.glob_name: record.metric.step_metric for record in records if record.metric.glob_name}
    assert axes["held-out top-1/*"] == "epoch" and axes["best of each layer/*"] == "layer"
    table = json.loads(next(run.path.rglob("results_*.table.json")).read_text())
    assert table["columns"][:2] == ["backbone", "model"] and table["data"][0][0] == "none"


@pytest.mark.usefixtures("offline")
def test_a_refusal_is_one_line(
    write_store: Callable[..., Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise wandb.errors.UsageError("No API key\nconfigured.")

    monkeypatch.setattr(wandb, "init", refuse)
    store = write_made(write_store, tmp_path / "s.zarr")
    with pytest.raises(InputError, match=r"wandb does not start \(No API key configured\.\); log in with wandb login"):
        fit_made(store, tmp_path / "run", **SETTINGS)


def test_damaged_notes_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "notes.jsonl"
    lines = ['{"id": "abc"}', '{"chart": "c", "line": "l", "step": 3}', "[]", '{"chart": "c", "line"']
    file.write_text("\n".join(lines))
    assert read_noted(file) == ("abc", {("c", "l"): {3}})
    assert len(read_noted(tmp_path / "none")[0]) == 8
