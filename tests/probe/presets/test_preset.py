"""The presets as files, as settings and as text: what they say, and who wins over them."""

import json
import tomllib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from tokenprobe.cli import main
from tokenprobe.errors import InputError
from tokenprobe.probe import FitConfig, fit
from tokenprobe.probe.grid.specs import parse_heads
from tokenprobe.probe.presets import PRESETS, load_preset
from tokenprobe.runtime.options import fields_of

from .conftest import Made

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "protocols.md").read_text()
OTHER: dict[str, Any] = {"epochs": 1, "device": "cpu"}


def test_every_file_is_a_preset_and_is_packaged() -> None:
    found = {
        file.name.removesuffix(".yaml") for file in files("tokenprobe.probe.presets").iterdir() if ".yaml" in file.name
    }
    assert set(PRESETS) == found
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "probe/presets/*.yaml" in data["tokenprobe"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_settings_with_a_source_and_deviations(name: str) -> None:
    preset = load_preset(name)
    assert preset.summary.endswith(".") and "arXiv" in preset.source and preset.deviations
    assert all(each.endswith(".") for each in preset.deviations)
    assert set(preset.settings) <= set(fields_of(FitConfig)) - {"out", "device", "amp", "cache", "preset"}
    assert {"heads", "layers", "norm", "protocol"} <= set(preset.settings)
    config = FitConfig(out="runs/x", preset=name)
    assert config.of_preset() == list(preset.settings)
    assert parse_heads(config.heads)


@pytest.mark.parametrize("name", PRESETS)
def test_the_page_lists_a_preset_with_its_settings_and_deviations(name: str) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    for head in load_preset(name).settings["heads"]:
        assert f"`{head}`".replace("|", "\\|") in row
    for key, value in load_preset(name).settings.items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        assert key == "heads" or f"`--{key.replace('_', '-')} {text}`" in row
    section = PAGE.split(f"\n### {name}\n")[1].split("\n### ")[0]
    assert section.split("\n\n")[-1].strip().splitlines() == [f"* {each}" for each in load_preset(name).deviations]


def test_a_setting_that_is_given_wins_even_if_it_is_the_default() -> None:
    config = FitConfig(out="runs/x", preset="capi", optimizer="lars", lr=3)
    assert (config.optimizer, config.lr, config.epochs) == ("lars", [3.0], 10)
    assert config.weight_decay == [5e-4, 1e-3, 5e-2]
    assert {"optimizer", "lr"}.isdisjoint(config.of_preset()) and "epochs" in config.of_preset()
    assert FitConfig(out="runs/x", preset="capi", head="ep").heads == ["ep"]


def test_a_changed_copy_keeps_its_settings() -> None:
    config = FitConfig(out="runs/x", preset="capi", epochs=3)
    assert replace(config, lr=[1.0]) == FitConfig(out="runs/x", preset="capi", epochs=3, lr=[1.0])
    assert replace(config, preset="aim").lr == config.lr


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"^unknown preset 'cappi'; known: capi, .*clip-logreg, few-labels$"):
        FitConfig(out="runs/x", preset="cappi")


def test_a_flag_wins_over_the_file_and_the_file_over_the_preset(made: Made, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("preset: mae-linear\nlr: [0.3, 1]\nepochs: 9\n")
    flags = ["--config", str(tmp_path / "sweep.yaml"), "--epochs", "12", "--device", "cpu", "-o", str(tmp_path / "run")]
    assert main(["fit", str(made.store.path), *flags]) == 0
    text = (tmp_path / "run" / "config.yaml").read_text()
    resolved = yaml.safe_load(text)
    assert (resolved["preset"], resolved["epochs"], resolved["lr"]) == ("mae-linear", 12, [0.3, 1.0])
    assert (resolved["heads"], resolved["norm"], resolved["batch_size"]) == (["linear:pool=cls"], "final", 16384)
    assert text.startswith(
        "# from preset mae-linear: heads, layers, norm, protocol, optimizer, weight_decay, batch_size, warmup_epochs\n"
    )


def test_a_run_goes_on_with_the_same_settings_under_any_name(made: Made, tmp_path: Path) -> None:
    first = fit(made.store.path, FitConfig(out=tmp_path / "run", preset="mae-linear", warmup_epochs=0, **OTHER))
    config = tmp_path / "run" / "config.yaml"
    settings = {key: value for key, value in load_preset("mae-linear").settings.items() if key not in OTHER}
    again = fit(made.store.path, FitConfig(out=tmp_path / "run", **settings | OTHER | {"warmup_epochs": 0}))
    assert again.results.equals(first.results)
    assert yaml.safe_load(config.read_text())["preset"] == "mae-linear"  # nothing was to train, so nothing was written


def test_the_command_shows_the_list_and_one_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(PRESETS)
    assert main(["presets", "capi"]) == 0
    shown = capsys.readouterr().out
    preset = load_preset("capi")
    for text in (preset.summary, preset.source, *preset.deviations, "weight_decay   0.0005,0.001,0.05\n"):
        assert text in shown
    assert main(["presets", "cappi"]) == 2
    assert capsys.readouterr().err.startswith("probe presets: unknown preset 'cappi'; known: capi, ")


def test_the_command_gives_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == list(PRESETS)
    assert main(["presets", "dinov2-knn", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["settings"] == dict(load_preset("dinov2-knn").settings)
    assert facts["deviations"] == list(load_preset("dinov2-knn").deviations)
