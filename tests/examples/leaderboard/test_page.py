"""The published list with its page."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenprobe.commands import program
from tokenprobe.extract import ExtractConfig, describe_extraction
from tokenprobe.extract.backbones.catalogue import image_bytes
from tokenprobe.probe import FitConfig
from tokenprobe.runtime.flags import Call
from tokenprobe.runtime.text import size_text

from .kit import PAGE, Script

N_TRAIN, N_ALL = 1_281_167, 1_331_167


@pytest.mark.slow
def test_the_page_is_what_the_list_says(script: Script, board: Any) -> None:
    """All of it. The shapes of forty models take ten seconds."""
    found = script.page.page_of(board, PAGE.read_text())
    assert found == PAGE.read_text(), "write it anew: python examples/leaderboard.py examples/imagenet.yaml --page …"
    check_parameters(script, board.rows)


def test_the_page_has_the_rows_of_the_list(script: Script, board: Any) -> None:
    """All published figures and facts of logs, and everything about a few rows whose shapes are known quickly."""
    page = PAGE.read_text()
    runnable = [row.title for row in board.rows if not row.reason]
    assert re.findall("^### (.*)$", page, re.MULTILINE) == runnable
    for row in board.rows:
        for figure in row.figures:
            published = ", ".join(f"{value} ({source})" for source, value in figure.published.items())
            assert f"{figure.probe}: {published}. " in page or f"{figure.probe} {published}" in page
            if figure.log and not row.reason:
                best, n_epochs, last, n_parameters = map(float, figure.log.values())
                log = (
                    f"best in epoch {best:.0f} of {n_epochs:.0f}, {last:.2f} after the last; {n_parameters:,.0f} param"
                )
                assert f"{figure.probe}: {published}. Log: {log}" in page
    few = [row for row in board.rows if row.name in ("mae-b", "hiera-b", "clip-l", "dinov3-b", "capi-l", "radio-b")]
    lines = script.page.page_of(replace(board, rows=few), "").splitlines()
    assert len(lines) > 60 and [line for line in lines if line not in page.splitlines()] == []
    check_parameters(script, few)


def test_the_list_on_the_page_can_be_read(script: Script, tmp_path: Path) -> None:
    [text] = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    (tmp_path / "own.yaml").write_text(text)
    [row] = script.reads.read_board(str(tmp_path / "own.yaml")).rows
    assert FitConfig(**row.settings(tmp_path)[1]).seeds == 3


def test_commands_of_the_page_have_the_settings_of_the_rows(script: Script, board: Any) -> None:
    shown, configs = PAGE.read_text().splitlines(), (ExtractConfig, FitConfig)
    for row in board.rows:
        if not row.reason:
            for line, config, given in zip(script.page.commands(row), configs, row.settings(Path()), strict=True):
                assert line in shown
                call = program.parse(line.split()[1:])
                assert isinstance(call, Call)
                assert call.arguments()["config"] == config(**given)


def test_sizes_on_the_page_are_tokens_times_images(script: Script, board: Any) -> None:
    """Of two bytes per number, and four in the mean. An embedding adds at most 0.7 %."""
    pattern = r"^\| (.+?) \| (\d+) patch(?: \+ (\d+) prefix)?, (\d+) wide \| (\S+) (.)B \| (\S+) (.)B \|"
    shown = re.findall(pattern, PAGE.read_text(), re.MULTILINE)
    assert len(shown) == len([row for row in board.rows if not row.reason and "RADIO" not in row.title])
    for _, patches, prefix, width, *sizes in shown:
        one = (int(patches) + int(prefix or 0)) * int(width) * 2 + int(width) * 4
        units = {"G": 1e9, "T": 1e12}
        assert float(sizes[0]) * units[sizes[1]] == pytest.approx(N_ALL * one, rel=0.012)
        assert float(sizes[2]) * units[sizes[3]] == pytest.approx(N_TRAIN * one, rel=0.012)


def test_a_dry_run_says_what_the_page_says_per_image(script: Script, board: Any, tmp_path: Path) -> None:
    n_train, n_test = 640, 64
    arrays: dict[str, Any] = {"x_train": np.zeros((n_train, 1, 1), np.uint8), "y_train": np.arange(n_train) % 10}
    arrays |= {"x_test": np.zeros((n_test, 1, 1), np.uint8), "y_test": np.arange(n_test) % 10}
    np.savez(tmp_path / "images.npz", **arrays)
    [row] = [row for row in board.rows if row.name == "mae-s"]
    extraction, _ = row.settings(tmp_path)
    del extraction["checkpoint"]
    changes = {"data": f"npz:{tmp_path / 'images.npz'}", "no_pretrained": True, "device": "cpu", "batch_size": 1}
    lines = dict(line.split(maxsplit=1) for line in describe_extraction(ExtractConfig(**extraction | changes)))
    [shape] = script.page.shapes(row)
    assert lines["total"] == size_text((n_train + n_test) * image_bytes([shape])) == "108 MB"


def check_parameters(script: Script, rows: Any) -> None:
    """Heads have as many as in the published logs, so they read tokens of the published width D.

    The classifier has 1000·D + 1000; EP with Q queries adds D² + Q·D.
    """
    for row in rows:
        shapes = [] if row.reason else script.page.shapes(row)
        for figure in row.figures:
            if shapes and figure.head and figure.log:
                settings = dict(figure.head.settings)
                width = shapes[-1].embedding if settings.get("pool") == "embedding" else shapes[-1].dim
                pooling = width**2 + settings["queries"] * width if figure.head.name == "ep" else 0
                assert figure.log["parameters"] == pooling + 1000 * width + 1000, (row.name, figure.probe)


def test_what_the_page_says_of_both_sources_is_so(board: Any) -> None:
    apart: dict[str, list[float]] = {"LP": [], "EP": []}
    for row in board.rows:
        for figure in row.figures:
            if len(figure.published) == 2 and row.name != "simmim-b":
                apart[figure.probe].append(abs(figure.published["repository"] - figure.published["paper"]))
    assert (
        f"at most {max(apart['LP']):.2f} points in linear probes and {max(apart['EP']):.2f} in EP" in PAGE.read_text()
    )
