"""A stranger's run or store may name code, which runs only if the user allows it, or data, which are not downloaded."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from safetensors.torch import load_file

from tokenprobe.cli import main
from tokenprobe.errors import InputError, MissingError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.backbones import code_of
from tokenprobe.probe.run.results import Run
from tokenprobe.probe.run.saved import load_saved, write_head
from tokenprobe.store import open_store
from tokenprobe.workflows import export_pipeline
from tokenprobe.workflows.attend import attend
from tokenprobe.workflows.config import AttendConfig, PredictConfig
from tokenprobe.workflows.predict import predict
from tokenprobe.workflows.repair import repair
from tokenprobe.workflows.trust import check_code

from ..extract.datasets.layouts import LAYOUTS
from .repair_kit import content_of

MakeRun = Callable[..., Run]
HUB = Path(__file__).parents[1] / "data" / "hub"
BLOCK = "test/layer_02/mean/c.0.0.0"


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A repository whose code leaves a trace."""
    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "hubconf.py").write_text("import os\nos.mkdir(os.path.join(os.path.dirname(__file__), 'HAS-RUN'))\n")
    return folder


def has_run(evil: Path) -> bool:
    return (evil / "HAS-RUN").exists()


def renamed_backbone(run: Run, model: str) -> str:
    """Write another model into the head of a run, as its author could; return its cell."""
    (file,) = (run.path / "heads").iterdir()
    _, about = load_saved(run.path, file.stem)
    write_head(run.path, file.stem, load_file(file), replace(about, backbone={**about.backbone, "model": model}))
    return file.stem


def damaged_store(run: Run, model: str) -> Path:
    """Write another model into the journal of a run's store, and remove one of its blocks."""
    store = Path(run.results["store"].iloc[0])
    journal = store / "journal.jsonl"
    journal.write_text(journal.read_text().replace("timm:VisionTransformer", model))
    (store / BLOCK).unlink()
    return store


def test_predict_runs_no_code_that_a_head_names(
    make_run: MakeRun, image_folder: Path, evil: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(["linear"])
    cell = renamed_backbone(run, f"hub:{evil}/vit")
    flags = ["predict", str(run.path), "--images", str(image_folder / "test"), "--workers", "0", "--device", "cpu"]
    assert main(flags) == 2
    expected = (
        f"probe predict: the head of {cell!r} asks for the backbone 'hub:{evil}/vit', and loading it runs the "
        f"hubconf.py in {str(evil)!r}; if you know that code and trust it, give --trust-code, or name it with --model\n"
    )
    assert capsys.readouterr().err.endswith(expected)
    assert not has_run(evil)
    assert main([*flags, "--trust-code"]) == 2
    assert "hub model" in capsys.readouterr().err, "there is no such entry"
    assert has_run(evil)


def test_a_model_that_the_user_names_is_trusted(make_run: MakeRun, image_folder: Path, evil: Path) -> None:
    run = make_run(["linear"])
    cell = renamed_backbone(run, f"hub:{evil}/vit")
    config: dict[str, Any] = {"images": str(image_folder / "test"), "workers": 0, "device": "cpu"}
    assert len(predict(run.path, PredictConfig(**config, model="timm:VisionTransformer"))) == 24
    assert not has_run(evil)
    with pytest.raises(InputError, match="hub model"):
        export_pipeline(run.path, cell, model=f"hub:{evil}/vit")
    assert has_run(evil)


def test_a_head_of_a_hub_model_runs_with_either(make_run: MakeRun) -> None:
    run = make_run(["linear"], model=f"hub:{HUB}/dinov2_tiny", model_arg={}, image_size=[16], no_pretrained=False)
    cell = run.results["cell"].iloc[0]
    with pytest.raises(InputError, match="loading it runs the hubconf"):
        export_pipeline(run.path, cell)
    trusted = export_pipeline(run.path, cell, trust_code=True)
    named = export_pipeline(run.path, cell, model=f"hub:{HUB}/dinov2_tiny")
    assert trusted.about == named.about


def test_repair_runs_no_code_that_a_journal_names_and_removes_nothing(
    make_run: MakeRun, evil: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = damaged_store(make_run(["linear"]), f"hub:{evil}/vit")
    before = sorted(file for file in store.rglob("*") if file.is_file())
    assert main(["verify", str(store), "--repair"]) == 2
    expected = (
        f"probe verify: the journal of {str(store)!r} asks for the backbone 'hub:{evil}/vit', and loading it runs the "
        f"hubconf.py in {str(evil)!r}; if you know that code and trust it, give --trust-code\n"
    )
    assert capsys.readouterr().err.endswith(expected)
    assert not has_run(evil)
    assert sorted(file for file in store.rglob("*") if file.is_file()) == before
    assert main(["verify", str(store), "--repair", "--trust-code"]) == 2
    assert has_run(evil)


def test_a_store_of_a_hub_model_is_repaired_with_trust(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(["linear"], model=f"hub:{HUB}/dinov2_tiny", model_arg={}, image_size=[16], no_pretrained=False)
    store = Path(run.results["store"].iloc[0])
    shutil.copytree(store, tmp_path / "whole.zarr")
    (store / BLOCK).unlink()
    with pytest.raises(InputError, match=r"^the journal of .* asks for the backbone 'hub:.*/dinov2_tiny', and "):
        repair(store)
    assert repair(store, trust_code=True) == []
    assert (store / BLOCK).read_bytes() == (tmp_path / "whole.zarr" / BLOCK).read_bytes()
    assert open_store(store).manifest.complete


def test_without_damage_nothing_is_asked(make_run: MakeRun, evil: Path) -> None:
    run = make_run(["linear"])
    store = Path(run.results["store"].iloc[0])
    journal = store / "journal.jsonl"
    journal.write_text(journal.read_text().replace("timm:VisionTransformer", f"hub:{evil}/vit"))
    assert repair(store) == []
    assert not has_run(evil)


@pytest.mark.parametrize(
    "model", ["timm:resnet50", "resnet50", "timm:local-dir:/x", "open_clip:hf-hub:a/b", "ViT-B-32:openai"]
)
def test_models_of_installed_packages_run_no_other_code(model: str) -> None:
    assert code_of(model, {}) == ""
    check_code(model, {}, "a stranger", trust_code=False)


def test_a_repository_on_github_is_named_by_its_address() -> None:
    for name in ("org/name", "org/name:main"):
        assert code_of(f"hub:{name}/vit", {}) == "code from https://github.com/org/name"
    with pytest.raises(InputError, match=r"^a stranger asks for the backbone 'hub:org/name:main/vit', and loadi"):
        check_code("hub:org/name:main/vit", {}, "a stranger", trust_code=False)
    check_code("hub:org/name/vit", {}, "a stranger", trust_code=True)


def test_a_folder_that_is_gone_is_still_code(make_run: MakeRun, tmp_path: Path) -> None:
    cell = renamed_backbone(run := make_run(["linear"]), f"hub:{tmp_path}/gone/vit")
    with pytest.raises(InputError, match=rf"loading it runs the hubconf\.py in '{tmp_path}/gone'; if you know"):
        export_pipeline(run.path, cell)
    with pytest.raises(MissingError, match="no folder at"):
        export_pipeline(run.path, cell, trust_code=True)


def with_data(store: Path, old: str, new: str) -> Path:
    """Write other data into the journal of a store, and remove one of its blocks."""
    journal = store / "journal.jsonl"
    changed = journal.read_text().replace(json.dumps(old), json.dumps(new))
    assert changed != journal.read_text()
    journal.write_text(changed)
    (store / BLOCK).unlink()
    return store


def test_repair_and_attend_download_nothing_that_a_journal_names(
    make_run: MakeRun, image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, root = make_run(["ep:queries=2"]), tmp_path / "made-by-a-download"
    spec = f"torchvision:DTD?root={root}&download=true"
    store = with_data(Path(run.results["store"].iloc[0]), f"folder:{image_folder}", spec)
    with pytest.raises(
        MissingError, match=rf"^cannot repair: the data were 'torchvision:DTD\?root={root}': cannot open"
    ):
        repair(store)
    attend(run.path, AttendConfig(device="cpu", n=2))
    assert "maps are drawn without images: cannot open torchvision:DTD" in caplog.text
    assert not root.exists()


def test_repair_and_attend_ask_before_they_load_from_the_hub(
    make_run: MakeRun, image_folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(["ep:queries=2"])
    store = with_data(Path(run.results["store"].iloc[0]), f"folder:{image_folder}", "hf:org/name?label=fine")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    expected = (
        r"^cannot repair: the data were 'hf:org/name\?label=fine', and a repair downloads none: "
        r"hf:org/name\?label=fine would be downloaded from the Hugging Face hub; if you know these data and "
        "loaded them before, set HF_HUB_OFFLINE=1, and they are read from the cache$"
    )
    with pytest.raises(InputError, match=expected):
        repair(store)
    attend(run.path, AttendConfig(device="cpu", n=2))
    assert "maps are drawn without images: hf:org/name?label=fine would be downloaded" in caplog.text
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingError, match="cannot load hf:org/name"):
        repair(store)


def test_data_that_were_downloaded_are_read_again(
    tiny_config: Callable[..., ExtractConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LAYOUTS["DTD"](tmp_path / "root", monkeypatch)
    spec = f"torchvision:DTD?root={tmp_path / 'root'}&download=true"
    store = Path(extract(tiny_config(data=spec, layers="2")))
    shutil.copytree(store, tmp_path / "whole.zarr")
    (store / BLOCK.replace("test", "val")).unlink()
    for _ in range(2):
        assert repair(store) == []
        assert content_of(store) == content_of(tmp_path / "whole.zarr")
