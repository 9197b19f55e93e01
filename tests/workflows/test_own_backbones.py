"""Backbones of users' own behind their trained heads: from Python as an object, from the command line by a function."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tokenprobe.cli import main
from tokenprobe.errors import InputError
from tokenprobe.extract.backbones import ModuleBackbone
from tokenprobe.probe import load_head
from tokenprobe.probe.run.results import Run
from tokenprobe.store import open_store
from tokenprobe.workflows import export_pipeline
from tokenprobe.workflows.attend import attend
from tokenprobe.workflows.config import AttendConfig, PredictConfig
from tokenprobe.workflows.predict import predict
from tokenprobe.workflows.repair import repair

MakeRun = Callable[..., Run]
NAME = "python:mypkg_vit:make"
CODE = """
from pathlib import Path

import torch
from torch import nn
from tokenprobe.extract.backbones import ModuleBackbone

with Path(__file__).with_name("imports").open("a") as file:
    file.write("x")

def make(seed=0, blocks=("0", "2")):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 12, 4, stride=4), nn.GELU(), nn.Conv2d(12, 12, 1))
    return ModuleBackbone(net, list(blocks), image_size=16, mean=[0.5] * 3, std=[0.25] * 3)
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mypkg_vit.py").write_text(CODE)
    monkeypatch.delitem(sys.modules, "mypkg_vit", raising=False)
    return tmp_path


def has_run(code: Path) -> bool:
    return (code / "imports").exists()


def made(seed: int = 0, blocks: tuple[str, ...] = ("0", "2")) -> ModuleBackbone:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 12, 4, stride=4), nn.GELU(), nn.Conv2d(12, 12, 1))
    return ModuleBackbone(net, list(blocks), image_size=16, mean=[0.5] * 3, std=[0.25] * 3)


def test_a_module_is_put_behind_its_head(
    make_run: MakeRun, image_folder: Path, code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(["ep:queries=2"], layers="1", model=made(), model_arg={}, no_pretrained=False)
    cell, test = run.results["cell"].iloc[0], str(image_folder / "test")
    split = open_store(run.results["store"].iloc[0])["test"]
    expected = load_head(run.path, cell)(torch.from_numpy(split.tokens(layer=1))).argmax(1)
    named = {f"{split.ids[row]}": split.classes[label] for row, label in enumerate(expected.tolist())}

    found = predict(run.path, PredictConfig(images=test, model=made(), workers=0, device="cpu"))
    assert dict(zip(found["image"], found["predicted"], strict=True)) == named
    assert attend(run.path, AttendConfig(images=test, model=made(), n=2, device="cpu")).maps.shape == (2, 2, 16)  # type: ignore[union-attr]

    argv = ["predict", str(run.path), "--images", test, "--workers", "0", "--device", "cpu"]
    assert main(argv) == 2
    assert "cannot be built by name; from Python give model=ModuleBackbone(module, …), and on the command line " in (
        capsys.readouterr().err
    )
    assert main([*argv, "--model", NAME, "-o", "found.csv"]) == 0
    assert Path("found.csv").read_text().count("\n") == 1 + len(named)

    for other in (made(seed=1), made(blocks=("0", "1"))):
        with pytest.raises(
            InputError, match=r"but the weights loaded now are .{12}…; give the module with the weights"
        ):
            export_pipeline(run.path, cell, model=other)
    store = Path(open_store(run.results["store"].iloc[0]).path)
    (store / "test/layer_01/mean/c.0.0.0").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"^cannot repair: the backbone was 'module:Sequential', a module given in Pyt"
    ):
        repair(store)


def test_a_function_runs_for_a_head_only_with_trust(
    make_run: MakeRun, image_folder: Path, code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(["linear"], layers="1", model=NAME, model_arg={"seed": 2}, no_pretrained=False)
    cell = run.results["cell"].iloc[0]
    (code / "imports").unlink()
    del sys.modules["mypkg_vit"]
    argv = ["predict", str(run.path), "--images", str(image_folder / "test"), "--workers", "0", "--device", "cpu"]
    assert main(argv) == 2
    assert not has_run(code)
    assert (
        "loading it runs the Python module 'mypkg_vit'; if you know that code and trust it, give --trust-code, or "
        in (capsys.readouterr().err)
    )
    assert main([*argv, "--trust-code"]) == 0
    assert has_run(code)
    by_name, by_object = (export_pipeline(run.path, cell, model=model) for model in (NAME, made(seed=2)))
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32))
    assert torch.equal(by_name(images), by_object(images))
