"""The count of images: its lines, its bar, and the speed of decoding where that bounds a run."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenprobe.extract import extract
from tokenprobe.store import open_store

from .kit import MakeConfig, journal_of


def test_progress_counts_every_image_once(tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    extract(tiny_config(layers="0"))
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("extract 84/84 images  ") and line.endswith("  0 s left")]
    assert lines[-1].endswith(" images/s") and "tiny.zarr: 84 images in " in lines[-1]


def test_decoding_that_bounds_the_run_is_named_with_its_speed(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of three million pixels before a backbone, and files, that take milliseconds."""
    folder = tmp_path / "large" / "one"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (1700, 1700, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "0.png", compress_level=1)
    for index in range(1, 12):
        shutil.copy(folder / "0.png", folder / f"{index}.png")
    store = open_store(extract(tiny_config(data=str(tmp_path / "large"), batch_size=2, layers="0")))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("extract 12/12 images")]
    speed = re.search(r"MB/s  waiting for decoding: (\d+) images/s per core  0 s left$", line)
    assert speed is not None, line
    finish = next(entry for entry in journal_of(store) if entry.get("event") == "finish")
    assert abs(finish["decoded_per_core_second"] - int(speed[1])) <= 0.6, "rounded to tenths, and to ones"
    waited = [finish[f"seconds_waited_for_{name}"] for name in ("images", "tokens", "disk")]
    assert waited[0] == max(waited) and 0 < sum(waited) < finish["seconds"]


def test_a_terminal_gets_a_bar(
    tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    extract(tiny_config(layers="0"))
    shown = capsys.readouterr().err
    assert "84/84" in shown and "━" in shown
    assert "extract 84/84 images" not in shown
