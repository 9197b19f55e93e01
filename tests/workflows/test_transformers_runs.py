"""A transformers model from end to end: extract, fit, predict, export and repair, with and without its own code."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tokenprobe.cli import main
from tokenprobe.errors import InputError
from tokenprobe.extract import describe_extraction
from tokenprobe.extract.config import ExtractConfig
from tokenprobe.probe import load_head
from tokenprobe.probe.run.results import Run
from tokenprobe.store import open_store
from tokenprobe.workflows import export_pipeline
from tokenprobe.workflows.repair import repair

from ..extract.backbones.transformers_kit import KINDS, made_folder
from .test_probed_model import images_of

MakeRun = Callable[..., Run]
BLOCK = "test/layer_02/mean/c.0.0.0"
HEADS = ["linear:pool=cls", "ep:queries=2"]


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_folder(tmp_path_factory.mktemp("models") / "dinov2", KINDS["dinov2"])


def made(make_run: MakeRun, folder: Path, **changes: Any) -> Run:
    return make_run(
        HEADS, **{"model": f"transformers:local-dir:{folder}", "model_arg": {}, "no_pretrained": False} | changes
    )


def test_the_store_describes_the_model_and_its_norm(make_run: MakeRun, dinov2: Path) -> None:
    run = made(make_run, dinov2, layers="2", norm="final")
    manifest = open_store(run.results["store"].iloc[0]).manifest
    assert manifest.recipe.model == "transformers:local-dir:dinov2"
    assert "transformers" in manifest.versions
    assert str(dinov2) not in (Path(run.results["store"].iloc[0]) / "zarr.json").read_text()
    model = transformers.AutoModel.from_pretrained(dinov2)
    assert manifest.final_norm is not None and manifest.final_norm["weight"] == model.layernorm.weight.tolist()


def test_a_head_runs_behind_the_model_again(
    make_run: MakeRun, dinov2: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made(make_run, dinov2)
    store = open_store(run.results["store"].iloc[0])
    row = next(run.results[run.results["head"].str.startswith("linear")].itertuples())
    model = export_pipeline(run.path, row.cell)
    images, _ = images_of(model, run, image_folder)
    stored = torch.from_numpy(store["test"].tokens(2, range(len(images)), kind="prefix"))[:, :1]
    with torch.no_grad():
        torch.testing.assert_close(model(images), load_head(run.path, row.cell)(stored), rtol=1e-4, atol=1e-4)
    torch.save(model, saved := io.BytesIO())
    saved.seek(0)
    with torch.no_grad():
        assert torch.equal(torch.load(saved, weights_only=False)(images), model(images))
    capsys.readouterr()
    flags = ["predict", str(run.path), "--images", str(image_folder / "test"), "--workers", "0", "--device", "cpu"]
    assert main([*flags, "--cell", row.cell]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= len(images)


def test_a_store_is_repaired_from_the_folder(make_run: MakeRun, dinov2: Path) -> None:
    store = Path(made(make_run, dinov2).results["store"].iloc[0])
    whole = (store / BLOCK).read_bytes()
    (store / BLOCK).unlink()
    assert repair(store) == []
    assert (store / BLOCK).read_bytes() == whole


def test_code_that_a_head_or_a_journal_asks_for_needs_trust(make_run: MakeRun, dinov2: Path) -> None:
    """`trust_remote_code` was the choice of whoever extracted; a name given by --model does not agree to it."""
    run = made(make_run, dinov2, model_arg={"trust_remote_code": True})
    cell, store = run.results["cell"].iloc[0], Path(run.results["store"].iloc[0])
    asked = rf"asks for the backbone 'transformers:local-dir:{dinov2}', and loading it runs the code in '{dinov2}'; if "
    for model in (None, f"transformers:local-dir:{dinov2}"):
        with pytest.raises(InputError, match=asked + r"you know that code and trust it, give --trust-code$"):
            export_pipeline(run.path, cell, model=model)
    assert export_pipeline(run.path, cell, trust_code=True).about.model == "transformers:local-dir:dinov2"
    (store / BLOCK).unlink()
    with pytest.raises(InputError, match=asked):
        repair(store)
    assert repair(store, trust_code=True) == []


def test_a_dry_run_describes_the_extraction(tiny_config: Callable[..., ExtractConfig], dinov2: Path) -> None:
    changes: dict[str, Any] = {"model": f"transformers:local-dir:{dinov2}", "model_arg": {}, "no_pretrained": False}
    assert any("16 patch" in line or "4 × 4" in line for line in describe_extraction(tiny_config(**changes)))
