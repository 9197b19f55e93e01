"""The leaderboard as a researcher runs it, on two tiny models, and the published list with its page."""

import csv
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import VisionTransformer

from tokenprobe import show_progress
from tokenprobe.commands import program
from tokenprobe.errors import InputError
from tokenprobe.extract import ExtractConfig, describe_extraction
from tokenprobe.extract.backbones import split_source
from tokenprobe.extract.backbones.catalogue import image_bytes
from tokenprobe.extract.backbones.from_hub import PUBLISHED, split_entry
from tokenprobe.extract.backbones.from_open_clip import split_tag
from tokenprobe.probe import FitConfig
from tokenprobe.runtime.flags import Call
from tokenprobe.runtime.text import size_text

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples/leaderboard.py"
LIST, PAGE = ROOT / "examples/imagenet.yaml", ROOT / "docs/reproduce-imagenet.md"
N_TRAIN, N_ALL = 1_281_167, 1_331_167
TINY: dict[str, Any] = {"img_size": 28, "patch_size": 14, "embed_dim": 16, "depth": 2, "num_heads": 2}
MADE: dict[str, Any] = {
    "sources": {"paper": "made up", "report": "made up too"},
    "extract": {"data": "demo", "limit": 64, "layers": "-1", "workers": 0, "device": "cpu", "batch_size": 32},
    "fit": {"preset": "ep", "epochs": 2, "warmup_epochs": 0, "batch_size": 32, "device": "cpu"},
    "rows": [
        {
            "name": "first",
            "title": "First",
            "extract": {"model": "timm:VisionTransformer", "model_arg": TINY, "no_pretrained": True},
            "figures": [
                {"probe": "LP", "head": "linear:pool=cls", "paper": 20, "report": 20.5},
                {"probe": "EP", "head": "ep:queries=2", "paper": 30},
            ],
        },
        {
            "name": "second",
            "title": "Second",
            "extract": {"model": "timm:VisionTransformer", "model_arg": TINY, "no_pretrained": True, "seed": 1},
            "fit": {"seeds": 2},
            "figures": [
                {"probe": "EP", "head": "ep:queries=2", "paper": 90},
                {"probe": "kNN", "reason": "it has no head.", "paper": 10},
            ],
        },
        {
            "name": "third",
            "title": "Third",
            "reason": "it has no weights.",
            "figures": [{"probe": "LP", "head": "linear", "paper": 50}],
        },
    ],
}  # fmt: skip


class Script:
    """The script and its modules. It counts the stages that run."""

    def __init__(self, main: ModuleType, reads: ModuleType, page: ModuleType) -> None:
        self.main, self.reads, self.page = main, reads, page

    def __call__(self, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        try:
            return self.main.main()
        finally:
            show_progress(False)


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(SCRIPT.parent))
        import leaderboard_list
        import leaderboard_page

        spec = importlib.util.spec_from_file_location("leaderboard_script", SCRIPT)  # a clone may be named leaderboard
        assert spec and spec.loader
        main = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(main)
        yield Script(main, leaderboard_list, leaderboard_page)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """Write the made-up list, with other keys for its first row."""

    def write(**changes: Any) -> Path:
        first, *others = MADE["rows"]
        path = tmp_path / "made.yaml"
        path.write_text(json.dumps(MADE | {"rows": [first | changes, *others]}))
        return path

    return write


def read_lines(out: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    with (out / "leaderboard.csv").open() as file:
        return {(line["name"], line["probe"], line["source"]): line for line in csv.DictReader(file)}


def best_of(run: Path, head: str) -> list[float]:
    """Return the figures of a head from the CSV file of a run, in percent."""
    with (run / "results.csv").open() as file:
        return [100 * float(line["test_top1"]) for line in csv.DictReader(file) if line["head"] == head]


def test_a_list_runs_stops_and_continues(
    script: Script, made: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within the second row. The second command does nothing of the first row, and no stage twice."""
    out, ran = tmp_path / "out", []
    real = {"extract": script.main.extract, "fit": script.main.fit}

    def extract(config: ExtractConfig) -> Any:
        ran.append(("extract", Path(config.out).name))
        return real["extract"](config)

    def stopped(store: str, config: FitConfig) -> Any:
        ran.append(("fit", Path(config.out).name))
        if Path(config.out).name == "second":
            raise KeyboardInterrupt
        return real["fit"](store, config)

    monkeypatch.setattr(script.main, "extract", extract)
    monkeypatch.setattr(script.main, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        script(monkeypatch, made(), "-o", out)
    assert ran == [("extract", "first.zarr"), ("fit", "first"), ("extract", "second.zarr"), ("fit", "second")]
    lines = read_lines(out)
    assert [line["note"] for line in lines.values()] == [
        "", "", "", "not run yet", "it has no head.", "it has no weights."
    ]  # fmt: skip
    ran.clear()
    monkeypatch.setattr(script.main, "fit", real["fit"])
    shutil.rmtree(out / "first.zarr")
    before = times_of(out / "runs/first"), times_of(out / "second.zarr/train/layer_01")
    assert len(before[0]) > 5 and len(before[1]) > 1
    assert script(monkeypatch, made(), "-o", out) == 0
    assert ran == [("extract", "second.zarr")]
    assert before == (times_of(out / "runs/first"), times_of(out / "second.zarr/train/layer_01"))
    check_table(out)
    ran.clear()
    monkeypatch.setattr(script.main, "fit", stopped)
    assert script(monkeypatch, made(), "-o", out) == 0 and ran == []


def times_of(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def check_table(out: Path) -> None:
    """Compare the table with the runs' own files."""
    lines = read_lines(out)
    ours = {
        ("first", "LP"): best_of(out / "runs/first", "linear"),
        ("first", "EP"): best_of(out / "runs/first", "ep"),
        ("second", "EP"): best_of(out / "runs/second", "ep"),
    }
    assert [len(values) for values in ours.values()] == [1, 1, 2]
    shown = (out / "leaderboard.md").read_text()
    for (name, probe), values in ours.items():
        line = lines[name, probe, "paper"]
        assert float(line["ours"]) == pytest.approx(np.mean(values))
        assert float(line["difference"]) == pytest.approx(np.mean(values) - float(line["published"]))
        assert int(line["n_seeds"]) == len(values) and line["note"] == ""
        assert f"{np.mean(values) - float(line['published']):+.2f} |  |".replace("-", "−") in shown
    assert float(lines["first", "LP", "report"]["difference"]) == pytest.approx(ours["first", "LP"][0] - 20.5)
    assert float(lines["second", "EP", "paper"]["std"]) == pytest.approx(np.std(ours["second", "EP"], ddof=1))
    assert "| Second | kNN | – | paper | 10 | – | – | it has no head. |" in shown
    assert "| Third | LP | `linear:pool=mean` | paper | 50 | – | – | it has no weights. |" in shown


def test_a_row_that_fails_is_noted_and_the_others_run(
    script: Script,
    made: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its weights are missing at first. Then its rate is far too high, and then it has two layers."""
    asked = ["-o", tmp_path, "--rows", "first"]
    missing = {"model": "timm:VisionTransformer", "model_arg": TINY, "checkpoint": str(tmp_path / "own.safetensors")}
    figures = [{"probe": "LP", "head": "linear:pool=cls", "paper": 20}]
    assert script(monkeypatch, made(extract=missing, figures=figures), *asked) == 1
    note = read_lines(tmp_path)["first", "LP", "paper"]["note"]
    assert note.startswith("no checkpoint") and "own.safetensors" in note
    assert f"first: {note}" in capsys.readouterr().err
    torch.manual_seed(0)
    save_file(VisionTransformer(**TINY).state_dict(), tmp_path / "own.safetensors")
    wild = {"lr": 1e30}
    assert script(monkeypatch, made(extract=missing, figures=figures, fit=wild), *asked) == 0
    line = read_lines(tmp_path)["first", "LP", "paper"]
    assert (line["note"], line["ours"], line["difference"]) == ("every cell diverged", "", "")
    several = made(extract=missing | {"layers": "all"}, figures=figures, fit={"layers": "all"})
    assert script(monkeypatch, several, *asked) == 1
    note = read_lines(tmp_path)["first", "LP", "paper"]["note"]
    made_before = [tmp_path / "first.zarr", tmp_path / "runs" / "first"]
    assert note == (
        f"row 'first' was begun with other settings; delete {made_before[0]} and {made_before[1]}, "
        "or give the row another name"
    )
    for path in made_before:
        shutil.rmtree(path)
    assert script(monkeypatch, several, *asked) == 1
    note = read_lines(tmp_path)["first", "LP", "paper"]["note"]
    assert note == "row 'first' has several layers or shots; give each a row, because a figure has one"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "row 1 has no name"),
        ({"name": "A b"}, "row 'A b': files have this name, so give lower-case letters, digits and . _ - alone"),
        ({"name": "second"}, "two rows are named 'second'; files have the names of rows, so give each its own"),
        ({"titel": "x"}, "unknown key in row 1 'titel'; known: title, "),
        ({"figures": {"EP": 3}}, "row 1, figures: expected a list, found {'EP': '3'}"),
        ({"figures": [75.5]}, "a figure of row 'first': expected keys and values, found '75.5'"),
        ({"figures": [{"head": "ep", "paper": 3}]}, "a figure of row 'first' has no probe"),
        ({"figures": [{"probe": "EP", "head": "ep"}]},
         "row 'first', EP has no published figure; give one from a source: paper, report"),
        ({"figures": [{"probe": "EP", "head": "ep", "blog": 3}]}, "unknown key in a figure of row 'first' 'blog'; "),
        ({"figures": [{"probe": "EP", "paper": 3}]},
         "row 'first', EP has no head; name one, or give a reason why no head reproduces it"),
        ({"figures": [{"probe": "EP", "head": "ep", "paper": 0.755}]},
         "row 'first', EP, paper: expected a number from 1 to 100, found '0.755'"),
        ({"figures": [{"probe": "EP", "head": "ep", "paper": "high"}]},
         "row 'first', EP, paper: expected a number from 1 to 100, found 'high'"),
        ({"figures": [{"probe": "EP", "head": "ep:queries=8|32", "paper": 3}]},
         "row 'first', EP: 'ep:queries=8|32' names 2 heads; give each a figure of its own"),
        ({"figures": [{"probe": "EP", "head": "epp", "paper": 3}]}, "unknown head 'epp'; known: ep, "),
        ({"figures": [{"probe": "EP", "head": "ep", "paper": 3, "log": {"epochs": 3}}]},
         "log of row 'first', EP has no best_epoch"),
        ({"extract": {"modle": "timm:x"}}, "row 'first', extract: unknown key 'modle'; known: model, "),
        ({"extract": {"out": "x"}}, "row 'first', extract: leave out out; the script decides it"),
        ({"fit": {"heads": "ep"}}, "row 'first', fit: leave heads out; the script decides it"),
        ({"fit": {"epochs": "many"}}, "row 'first', fit: epochs 'many': expected a whole number"),
        ({"figures": [{"probe": "EP", "reason": "none.", "paper": 3}]},
         "row 'first' has no head; name one, or give the row a reason why it cannot be run"),
        ({"extract": {}}, "row 'first' has no model; name one, or give the row a reason why it cannot be run"),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_a_wrong_list_is_refused(
    script: Script, made: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    path = made(**changes)
    with pytest.raises(InputError) as raised:
        script.reads.read_board(str(path))
    assert str(raised.value).startswith(f"{path}: {message}")


def test_a_source_has_no_name_of_a_key(script: Script, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(json.dumps(MADE | {"sources": {"log": "a log"}}))
    with pytest.raises(InputError, match="a source cannot be named 'log', which is a key of a figure; give it another"):
        script.reads.read_board(str(tmp_path / "a.yaml"))


def test_a_wrong_command_is_refused(
    script: Script,
    made: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments, message in (
        ([made(), "-o", tmp_path, "--rows", "frist"], "unknown row 'frist'; known: first, "),
        ([tmp_path / "none.yaml", "-o", tmp_path], "no config file at "),
        ([made()], "give --out a folder, or --page a page"),
        ([made(), "--page", tmp_path / "page.md"], "has no n_images; the page needs them for the sizes of stores"),
    ):
        with pytest.raises(SystemExit):
            script(monkeypatch, *arguments)
        assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def board(script: Script) -> Any:
    return script.reads.read_board(str(LIST))


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


def test_models_of_the_list_are_known(board: Any) -> None:
    for row in board.rows:
        if row.reason:
            continue
        source, name = split_source(row.extract["model"])
        if source == "timm":
            assert timm.is_model(name.partition(".")[0])
            assert name in timm.list_pretrained() or "checkpoint" in row.extract
        elif source == "open_clip":
            architecture, tag = split_tag(name)
            assert tag in open_clip.list_pretrained_tags_by_model(architecture)
        else:
            repository, entry = split_entry(name)
            assert entry in PUBLISHED.get(repository, ["radio_model"])


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
