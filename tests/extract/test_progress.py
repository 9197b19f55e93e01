"""The count of images: its lines, its bar, and the decoding speed if decoding is the bottleneck."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenprobe.extract import extract
from tokenprobe.extract.decoded import DecodeSpeed
from tokenprobe.extract.progress import ImageProgress
from tokenprobe.store import open_store

from .kit import MakeConfig, journal_of


@pytest.mark.usefixtures("messages")
def test_progress_counts_every_image_once(tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    extract(tiny_config(layers="0"))
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("extract 84/84 images  ") and line.endswith("  0 s left")]
    assert lines[-1].endswith(" images/s") and "tiny.zarr: 84 images in " in lines[-1]


@pytest.mark.usefixtures("messages")
def test_decoding_that_bounds_the_run_is_named_with_its_speed(
    tiny_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of three million pixels. The backbone and the files need only milliseconds."""
    folder = tmp_path / "large" / "one"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (1700, 1700, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "0.png", compress_level=1)
    for index in range(1, 12):
        shutil.copy(folder / "0.png", folder / f"{index}.png")
    store = open_store(extract(tiny_config(data=str(tmp_path / "large"), batch_size=2, layers="0")))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("extract 12/12 images")]
    speed = re.search(r"B/s  waiting for decoding: (\d+) images/s per core  0 s left$", line)
    assert speed is not None, line
    finish = next(entry for entry in journal_of(store) if entry.get("event") == "finish")
    assert abs(finish["decoded_per_core_second"] - int(speed[1])) <= 0.6, "rounded to tenths, and to ones"
    waited = [finish[f"seconds_waited_for_{name}"] for name in ("images", "tokens", "disk")]
    assert waited[0] == max(waited) and 0 < sum(waited) < finish["seconds"]


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_a_bar(tiny_config: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    extract(tiny_config(layers="0"))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    bars = [part for part in re.split(r"[\r\n]+", shown) if part.startswith("extract ")]
    speed = r"(\d+ images/s  [\d.]+ .?B/s|\d+/s; decoding \d+/s per core)"  # a busy machine may wait for decoding
    assert re.fullmatch(rf"extract ━+ 84/84 {speed} 0:00:00", bars[-1].rstrip())
    assert "extract 84/84 images" not in shown


@pytest.mark.usefixtures("terminal")
def test_the_bar_of_a_large_data_set_fits_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    slow = DecodeSpeed(n_images=1_281_167, core_seconds=10_000.0, waited=9.0, elapsed=10.0)
    for speed in (DecodeSpeed(), slow):
        with ImageProgress(1_281_167, speed) as bar:
            now[0] += 200
            bar.advance(1_281_167, 10**12)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    bars = [part for part in re.split(r"[\r\n]+", shown) if part.startswith("extract ")]
    assert all("…" not in bar for bar in bars), bars
    assert "; decoding 128/s per core" in bars[-1]
