"""Event files of real fits, read back with TensorBoard's own reader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tokenprobe.probe.fitting.progress import FitProgress
from tokenprobe.probe.logs.tensorboard import RESULTS, as_markdown
from tokenprobe.probe.run.results import Run
from tokenprobe.store import Store

from ..kit import fit_made, write_made

pytest.importorskip("tensorboard", reason="tensorboard is not installed")
SETTINGS: dict[str, Any] = {"heads": ["ep:queries=4", "ridge"], "val": 0.2, "log": "tensorboard"}
LINE = "none ep:queries=4, lr 1 to 10"


def events_of(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), {"scalars": 0, "histograms": 0, "tensors": 0})
    events.Reload()
    return events


def curves_of(run: Run) -> dict[tuple[str, str], list[tuple[int, float]]]:
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for line in sorted((run.path / "tensorboard").iterdir()):
        events = events_of(line)
        found |= {(chart, line.name): [(each.step, each.value) for each in events.Scalars(chart)]
                  for chart in events.Tags()["scalars"]}  # fmt: skip
    return found


@pytest.fixture
def store(write_store: Callable[..., Store], tmp_path: Path) -> Store:
    return write_made(write_store, tmp_path / "s.zarr")


def test_curves_are_those_of_the_history(store: Store, tmp_path: Path) -> None:
    run = fit_made(store, tmp_path / "run", **SETTINGS)
    curves, history = curves_of(run), run.history
    for layer in (0, 1):
        of_layer = history[history["cell"].str.contains(f"layer_0{layer}-ep")]
        best = of_layer.loc[of_layer.groupby("epoch")["val_top1"].idxmax()]
        for chart, column in (("held-out top-1", "val_top1"), ("training loss", "train_loss")):
            points = curves[f"{chart}/layer 0{layer}", LINE]
            assert [step for step, _ in points] == best["epoch"].tolist() == [1, 2, 3, 4]
            assert [value for _, value in points] == pytest.approx(best[column].tolist(), rel=1e-6)
    results = run.results.assign(layer=run.results["layer"].astype(int))
    for head in ("ep", "ridge"):
        (points,) = [points for (chart, line), points in curves.items() if chart.startswith("best of") and head in line]
        highest = results[results["head"] == head].groupby("layer")["val_top1"].max()
        assert dict(points) == pytest.approx(highest.to_dict(), rel=1e-6) and len(points) == 2
    assert len(curves) == 6
    histograms = events_of(run.path / "tensorboard" / LINE)
    first = histograms.Histograms("held-out top-1, all rates and seeds/layer 00")[0].histogram_value
    figures = history[history["cell"].str.contains("layer_00-ep") & (history["epoch"] == 1)]["val_top1"]
    assert (first.num, first.sum) == (2, pytest.approx(figures.sum()))


def test_a_fit_that_was_killed_goes_on_with_the_same_curves(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit_made(store, tmp_path / "whole", **SETTINGS)
    scored, seen = FitProgress.scored, list[int]()

    def stop_in_the_middle(self: FitProgress, rows: Any, history: Any = ()) -> None:
        scored(self, rows, history)
        seen.extend(row["epoch"] for row in history[:1])
        if len(seen) == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(FitProgress, "scored", stop_in_the_middle)
        with pytest.raises(KeyboardInterrupt):
            fit_made(store, tmp_path / "run", **SETTINGS)
    (torn,) = (tmp_path / "run" / "tensorboard" / LINE).iterdir()
    torn.write_bytes(torn.read_bytes()[:-5])  # the last event is not whole
    run = fit_made(store, tmp_path / "run", **SETTINGS)
    assert curves_of(run) == curves_of(whole)
    assert len(list((tmp_path / "run" / "tensorboard" / LINE).iterdir())) == 2


def test_results_are_a_table_and_rows_to_compare_and_are_replaced(store: Store, tmp_path: Path) -> None:
    fit_made(store, tmp_path / "run", **SETTINGS | {"heads": ["ridge"]})
    run = fit_made(store, tmp_path / "run", **SETTINGS)
    folder = run.path / "tensorboard" / RESULTS
    (text,) = events_of(folder).Tensors("results/text_summary")
    lines = text.tensor_proto.string_val[0].decode().splitlines()
    chosen = run.results[run.results["selected"]].sort_values("val_top1", ascending=False)
    assert len(lines) == 2 + len(chosen) and "| ep |" in "\n".join(lines)
    sessions = sorted(path for path in folder.iterdir() if path.is_dir())
    assert len(sessions) == len(chosen) == 4
    found = [events_of(each) for each in sessions]
    assert [each.Scalars("results/val_top1")[0].value for each in found] == pytest.approx(chosen["val_top1"].tolist())
    content = found[0].summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"head_config" in content and chosen["head"].iloc[0].encode() in content


def test_texts_cannot_end_a_cell_of_the_table() -> None:
    table = pd.DataFrame({"name": ["a|b\nc"], "value": [0.123456]}).assign(none=None)
    assert as_markdown(table).splitlines()[2] == "| a\\|b c | 0.1235 |  |"
