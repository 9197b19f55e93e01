"""Backbone and head composed: the same logits as from the store, in a module that can be saved and exported."""

import io
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.export import Dim

from tokenprobe.errors import InputError, MissingError
from tokenprobe.extract.backbones import load_backbone
from tokenprobe.extract.views import Pixels, decoded_as, normalise
from tokenprobe.probe import FitConfig, fit, load_head
from tokenprobe.probe.run.results import Run
from tokenprobe.store import open_store
from tokenprobe.workflows import export_pipeline
from tokenprobe.workflows.config import ExportConfig, PredictConfig
from tokenprobe.workflows.export import export
from tokenprobe.workflows.predict import predict
from tokenprobe.workflows.probed_model import ProbedModel

from ..conftest import TINY_VIT
from ..probe.kit import pooled_tokens

MakeRun = Callable[..., Run]
HEADS = ["ep:queries=2", "linear:pool=cls", "linear:pool=mean", "linear:pool=cls+mean", "ridge:pool=cls", "logreg"]
CASES = [("0", "none", HEADS), ("2", "final", HEADS), ("0+2", "none", HEADS[:1])]
TINY_RESNET = {"channels": [8, 8, 8, 8], "stem_width": 8}
TOLERANCE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
"""Logits in the tens, after BatchNorm, from float32 tokens whose rounding depends on the batch size."""


def images_of(model: ProbedModel, run: Run, image_folder: Path) -> tuple[Tensor, Tensor]:
    """Return the test images normalised, in the order of the store's rows, and their labels."""
    split = open_store(run.results["store"].iloc[0])["test"]
    pixels = [Pixels(model.transform)(Image.open(image_folder / "test" / name)) for name in split.ids]
    return normalise(torch.stack(pixels), model.transform), torch.from_numpy(split.labels)


@pytest.mark.parametrize(("layers", "norm", "heads"), CASES)
def test_images_give_what_the_stored_tokens_give(
    make_run: MakeRun, image_folder: Path, layers: str, norm: str, heads: list[str]
) -> None:
    run = make_run(heads, layers=layers, norm=norm)
    store = open_store(run.results["store"].iloc[0])
    selected = run.results[run.results["selected"]]
    assert len(selected) == len(heads)
    for row in selected.itertuples():
        model = export_pipeline(run.path, row.cell)
        images, labels = images_of(model, run, image_folder)
        with torch.no_grad():
            logits = model(images)
            assert logits.shape == (len(labels), 3) and logits.dtype == torch.float32
            assert torch.equal(logits, model.forward_head(model.forward_features(images)))
            if norm == "none":
                parts = [pooled_tokens(store, "test", int(layer), row.tokens) for layer in layers.split("+")]
                expected = load_head(run.path, row.cell)(torch.cat(parts, dim=-1))
                torch.testing.assert_close(logits, expected, **TOLERANCE)
            else:  # timm's own forward_features ends with the norm
                backbone: Any = model.backbone
                tokens = backbone.forward_features(images)
                arrays = {"prefix": tokens[:, :1], "patch": tokens[:, 1:], "mean": tokens[:, 1:].mean(1, keepdim=True)}
                read = torch.cat([arrays[kind] for kind in row.tokens.split("+")], dim=1)
                torch.testing.assert_close(model.forward_features(images), read, **TOLERANCE)
        assert (logits.argmax(1) == labels).double().mean().item() == row.test_top1


def test_an_embedding_is_the_backbones_own(make_run: MakeRun, image_folder: Path) -> None:
    arguments = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
    heads = ["linear:pool=embedding", "ep:queries=2"]
    run = make_run(heads, model="open_clip:ViT-B-32", model_arg=arguments, image_size=[16], layers="1", norm="final")
    row = next(run.results[run.results["head"] == "linear"].itertuples())
    model = export_pipeline(run.path, row.cell)
    images, labels = images_of(model, run, image_folder)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(images)[:, 0], model.backbone(images), **TOLERANCE)
        assert (model(images).argmax(1) == labels).double().mean().item() == row.test_top1
    assert_exported(model, (16, 16))


def test_the_store_is_not_needed(make_run: MakeRun) -> None:
    run = make_run(["linear"])
    before = export_pipeline(run.path, run.results["cell"].iloc[0])
    shutil.rmtree(run.results["store"].iloc[0])
    after = export_pipeline(run.path, run.results["cell"].iloc[0])
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(before(images), after(images))


def test_a_saved_or_copied_module_is_the_same(make_run: MakeRun) -> None:
    run = make_run(["ep:queries=2"], norm="final")
    model = export_pipeline(run.path, run.results["cell"].iloc[0])
    file, images = io.BytesIO(), torch.randn(3, 3, 16, 16)
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert not model.training and not any(weight.requires_grad for weight in model.backbone.parameters())
    assert torch.equal(loaded(images), model(images)) and torch.equal(deepcopy(model)(images), model(images))
    assert loaded.double()(images.double()).dtype == torch.float64  # one set of weights, wherever they are referred to


def test_training_the_head_leaves_the_backbone_as_it_is(make_run: MakeRun) -> None:
    """Otherwise its BatchNorm would adapt to the new images."""
    run = make_run(["linear"], model="timm:resnet18", model_arg=TINY_RESNET, image_size=[32])
    model = export_pipeline(run.path, run.results["cell"].iloc[0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(8, 3, 32, 32)
    tokens = model.forward_features(images)
    assert model.train() is model and model.head.training
    assert torch.equal(model.forward_features(images), tokens)
    torch.nn.functional.cross_entropy(model(images), torch.arange(8) % 3).backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias", "head.running_mean", "head.running_var"}
    assert not model.eval().head.training


@pytest.mark.parametrize(
    "head",
    [
        "ep:queries=2",
        "jepa:heads=2,depth=3,norm=none",
        "aim:heads=2,token_norm=none,norm=none",
        "alf:heads=2",
        "linear:norm=none",
    ],
)
def test_heads_with_every_kind_of_norm_can_be_exported(make_run: MakeRun, head: str) -> None:
    """By torch.export, with any number of images: program and module give the same logits."""
    run = make_run([head], norm="final")
    assert_exported(export_pipeline(run.path, run.results["cell"].iloc[0]), (16, 16))


@pytest.mark.parametrize(
    ("model", "arguments", "size"),
    [
        ("timm:resnet18", TINY_RESNET, 32),
        ("timm:densenet121", {"growth_rate": 4, "block_config": [1, 1, 1, 1]}, 32),  # read by hooks
        ("open_clip:ViT-B-32", {"layers": 2, "width": 64, "head_width": 32}, 32),
        ("hub", {}, 16),
    ],
)
def test_backbones_of_every_source_can_be_exported(
    make_run: MakeRun, model: str, arguments: dict[str, Any], size: int
) -> None:
    if model == "hub":
        model = f"hub:{Path(__file__).parents[1] / 'data' / 'hub'}/dinov2_tiny_reg"
    run = make_run(["ep:queries=2"], model=model, model_arg=arguments, image_size=[size], layers="-1")
    assert_exported(export_pipeline(run.path, run.results["cell"].iloc[0], trust_code=True), (size, size))


def assert_exported(model: ProbedModel, size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: Dim("batch", min=1, max=64)},)).module()
    with torch.no_grad():
        for n_images in (2, 5):
            images = torch.randn(n_images, 3, *size)
            torch.testing.assert_close(program(images), model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("crop", [{}, {"mean": "[0.1, 0.2, 0.3]", "std": "[0.5, 0.6, 0.7]"}])
def test_timm_takes_its_transform_from_the_module(
    make_run: MakeRun, image_folder: Path, tmp_path: Path, crop: dict[str, str]
) -> None:
    """With and without weights whose metadata ask only for a resize."""
    weights = load_backbone("timm:VisionTransformer", model_arg=TINY_VIT, no_pretrained=True).module.state_dict()
    save_file(weights, tmp_path / "w.safetensors", metadata=crop)
    run = make_run(["linear"], checkpoint=tmp_path / "w.safetensors", no_pretrained=False)
    model = export_pipeline(run.path, run.results["cell"].iloc[0])
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    assert model.num_classes == 3 and model.pretrained_cfg["label_names"] == ["ant", "bee", "cat"]
    for file in sorted((image_folder / "test" / "ant").iterdir()):
        image = Image.open(file)
        ours = normalise(Pixels(model.transform)(image)[None], model.transform)[0]
        torch.testing.assert_close(transform(image), ours, rtol=0, atol=1e-6)


def test_a_head_on_tokens_of_fast_decoding_predicts_by_fast_decoding(
    make_run: MakeRun, image_folder: Path, tmp_path: Path
) -> None:
    run = make_run(["linear"], decode="fast")
    cell = run.results["cell"].iloc[0]
    model, store = export_pipeline(run.path, cell), open_store(run.results["store"].iloc[0])
    assert model.transform.decode == "fast" and "decode" not in model.pretrained_cfg
    expected = load_head(run.path, cell)(pooled_tokens(store, "test", 2, run.results["tokens"].iloc[0])).detach()
    images = PredictConfig(images=str(image_folder / "test"), out=tmp_path / "p.npz", workers=0, device="cpu")
    predict(run.path, images)
    with np.load(tmp_path / "p.npz") as written:
        found = torch.from_numpy(written["logits"])[[list(written["ids"]).index(key) for key in store["test"].ids]]
    torch.testing.assert_close(found, expected, **TOLERANCE)
    model.transform = decoded_as("exact", model.transform)
    exact = model(images_of(model, run, image_folder)[0]).detach()
    assert not torch.allclose(exact, expected, **TOLERANCE), "pixels differ, so logits do"


def test_weights_that_moved_can_be_named_and_others_are_refused(make_run: MakeRun, tmp_path: Path) -> None:
    weights = load_backbone(
        "timm:VisionTransformer", model_arg=TINY_VIT, no_pretrained=True, seed=5
    ).module.state_dict()
    save_file(weights, tmp_path / "w.safetensors")
    run = make_run(["linear"], checkpoint=tmp_path / "w.safetensors", no_pretrained=False)
    cell, images = run.results["cell"].iloc[0], torch.randn(2, 3, 16, 16)
    expected = export_pipeline(run.path, cell)(images)
    moved, other = tmp_path / "moved.safetensors", tmp_path / "other.safetensors"
    (tmp_path / "w.safetensors").rename(moved)
    with pytest.raises(MissingError, match=rf"the backbone of '{cell}' is 'timm:VisionTransformer': no checkpoint at "):
        export_pipeline(run.path, cell)
    assert torch.equal(export_pipeline(run.path, cell, checkpoint=moved)(images), expected)
    save_file({name: value + 1 for name, value in weights.items()}, other)
    with pytest.raises(
        InputError, match=r"was trained on tokens of 'timm:VisionTransformer' with weights [0-9a-f]{12}"
    ):
        export_pipeline(run.path, cell, checkpoint=other)


def test_a_set_of_weights_that_was_asked_for_is_loaded_again(make_run: MakeRun, tmp_path: Path) -> None:
    sets = {}
    for key, seed in (("model", 5), ("model_ema", 6)):
        backbone = load_backbone("timm:VisionTransformer", model_arg=TINY_VIT, no_pretrained=True, seed=seed)
        sets[key] = backbone.module.state_dict()
    torch.save(sets, tmp_path / "w.pth")
    run = make_run(["linear"], checkpoint=tmp_path / "w.pth", no_pretrained=False, checkpoint_key="model")
    cell = run.results["cell"].iloc[0]
    found = export_pipeline(run.path, cell).backbone.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in sets["model"].items())
    with pytest.raises(InputError, match=r"; give the --checkpoint and --checkpoint-key of its probe extract$"):
        export_pipeline(run.path, cell, checkpoint_key="model_ema")
    torch.save({"net": sets["model"], "ema": sets["model_ema"]}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"unknown key in checkpoint '.*/w\.pth' 'model'; known: (net, ema|ema, net)"):
        export_pipeline(run.path, cell)
    found = export_pipeline(run.path, cell, checkpoint_key="net").backbone.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in sets["model"].items())


def test_a_head_of_an_archive_knows_its_backbone_from_the_journal(make_run: MakeRun, tmp_path: Path) -> None:
    """Without a journal it knows the model's name but not the file of its weights, and the error says so."""
    backbone = load_backbone("timm:VisionTransformer", model_arg=TINY_VIT, no_pretrained=True, seed=5)
    weights, other = tmp_path / "w.safetensors", tmp_path / "other.safetensors"
    save_file(backbone.module.state_dict(), weights)
    save_file({name: value + 1 for name, value in backbone.module.state_dict().items()}, other)
    store = make_run(["linear"], checkpoint=weights, no_pretrained=False).results["store"].iloc[0]
    export(store, ExportConfig(out=tmp_path / "archive.zarr"))
    config = FitConfig(out=tmp_path / "run2", heads=["linear"], layers="2", lr=[10.0], epochs=1, device="cpu")
    run = fit(tmp_path / "archive.zarr", config)
    assert export_pipeline(run.path, run.results["cell"].iloc[0])(torch.randn(1, 3, 16, 16)).shape == (1, 3)
    (tmp_path / "archive.zarr" / "journal.jsonl").unlink()
    run = fit(tmp_path / "archive.zarr", replace(config, out=tmp_path / "run3"))
    cell, why = run.results["cell"].iloc[0], "; the head's store had no journal, so the file, size and seed"
    named = f"the backbone of '{cell}' is 'timm:VisionTransformer': .* no published weights; give --checkpoint.*{why}"
    with pytest.raises(InputError, match=named):
        export_pipeline(run.path, cell)
    with pytest.raises(InputError, match=f"give the --checkpoint and --checkpoint-key of its probe extract{why}"):
        export_pipeline(run.path, cell, checkpoint=other)
    assert export_pipeline(run.path, cell, checkpoint=weights)(torch.randn(1, 3, 16, 16)).shape == (1, 3)


def test_a_local_model_is_found_from_another_folder_or_where_it_is_named(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(Path(__file__).parents[1] / "data" / "hub", tmp_path / "here" / "hub")
    monkeypatch.chdir(tmp_path / "here")
    run = make_run(["linear"], model="hub:hub/dinov2_tiny", model_arg={}, image_size=[16])
    monkeypatch.chdir(tmp_path)
    cell, images = run.results["cell"].iloc[0], torch.randn(1, 3, 16, 16)
    logits = export_pipeline(run.path, cell, trust_code=True)(images)
    (tmp_path / "here").rename(tmp_path / "there")
    gone = (
        rf"the backbone of '{cell}' is 'hub:hub/dinov2_tiny': no folder at .*; if it has moved, give --model or --che"
    )
    with pytest.raises(MissingError, match=gone):
        export_pipeline(run.path, cell, trust_code=True)
    assert torch.equal(export_pipeline(run.path, cell, model="hub:there/hub/dinov2_tiny")(images), logits)
