"""timm backbones against hooks on their blocks, and names of timm models."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tokenprobe.errors import InputError
from tokenprobe.extract.backbones import absolute_model, split_source

from ...conftest import TINY_VIT
from .kit import NO_PREFIX, hooked, images, load, made_vit, save


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["cls"]),
        ({"reg_tokens": 2}, ["cls", "reg0", "reg1"]),
        (NO_PREFIX, []),
        (NO_PREFIX | {"reg_tokens": 2}, ["reg0", "reg1"]),
        ({"img_size": (16, 24)}, ["cls"]),
    ],
)
def test_tokens_are_the_raw_outputs_of_the_blocks(tmp_path: Path, changes: dict[str, Any], names: list[str]) -> None:
    model = made_vit(**changes)
    backbone = load(arguments=TINY_VIT | changes, checkpoint=save(model, tmp_path / "a.safetensors"))
    height, width = model.patch_embed.grid_size
    n_prefix = len(names)
    outputs = hooked(model.blocks, model, images(4 * height, 4 * width))
    tokens = backbone.tokens(images(4 * height, 4 * width), [2, 0, 1])
    assert backbone.prefix_names == names
    for layer, expected in enumerate(outputs):
        patch, prefix = tokens[layer]
        shape = backbone.shapes[layer]
        assert (shape.grid, shape.dim, shape.n_prefix) == ((height, width), 12, n_prefix)
        torch.testing.assert_close(patch, expected[:, n_prefix:], rtol=0, atol=0)
        if names:
            torch.testing.assert_close(prefix, expected[:, :n_prefix], rtol=0, atol=0)
        else:
            assert prefix is None


@pytest.mark.parametrize("layers", [[0], [1], [2], [2, 0]])
def test_any_choice_of_layers_gives_the_same_tokens(layers: list[int]) -> None:
    backbone = load()
    everything = backbone.tokens(images(), [0, 1, 2])
    chosen = backbone.tokens(images(), layers)
    assert sorted(chosen) == sorted(layers)
    for layer, (patch, prefix) in chosen.items():
        assert torch.equal(patch, everything[layer][0])
        torch.testing.assert_close(prefix, everything[layer][1], rtol=0, atol=0)


def test_a_distillation_token_has_its_name() -> None:
    arguments = {"img_size": 32, "embed_dim": 12, "depth": 2, "num_heads": 2}
    assert load("deit_tiny_distilled_patch16_224", arguments).prefix_names == ["cls", "dist"]


def test_a_convolutional_model_gives_its_maps_row_by_row() -> None:
    arguments = {"depths": (1, 1, 1, 1), "dims": (4, 8, 12, 16)}
    backbone = load("convnext_atto", arguments)
    module: Any = backbone.module
    outputs = hooked(module.stages, module, images(64, 64))
    tokens = backbone.tokens(images(64, 64), range(4))
    for layer, maps in enumerate(outputs):
        patch, prefix = tokens[layer]
        assert prefix is None
        side, dim = 64 // 4 // 2**layer, (4, 8, 12, 16)[layer]
        assert patch.shape == (3, side * side, dim)
        for r, c in product(range(side), range(side)):  # convolved in another memory layout: rounded otherwise
            torch.testing.assert_close(patch[:, r * side + c], maps[:, :, r, c], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, NO_PREFIX])
def test_the_final_norm_turns_the_last_layer_into_the_models_output(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = made_vit(**changes)
    backbone = load(arguments=TINY_VIT | changes, checkpoint=save(model, tmp_path / "a.safetensors"))
    norm = backbone.final_norm()
    assert norm is not None
    assert norm["kind"] == "LayerNorm"
    patch, prefix = backbone.tokens(images(), [2])[2]
    pooled = patch.mean(1) if prefix is None else prefix[:, 0]
    normed = F.layer_norm(pooled, (12,), torch.tensor(norm["weight"]), torch.tensor(norm["bias"]), norm["eps"])
    with torch.no_grad():
        torch.testing.assert_close(normed, model(images()), rtol=1e-5, atol=1e-5)
    assert json.loads(json.dumps(norm)) == norm


def test_the_backbone_is_frozen_and_evaluating() -> None:
    module = load(arguments=TINY_VIT | {"pos_drop_rate": 0.5}).module
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("timm:vit_tiny_patch16_224", ("timm", "vit_tiny_patch16_224")),
        ("vit_tiny_patch16_224", ("timm", "vit_tiny_patch16_224")),
        ("timm:hf-hub:org/name", ("timm", "hf-hub:org/name")),
        ("hf-hub:org/name", ("timm", "hf-hub:org/name")),
        ("local-dir:/x/y", ("timm", "local-dir:/x/y")),
    ],
)
def test_a_model_is_a_source_and_a_name(model: str, expected: tuple[str, str]) -> None:
    assert split_source(model) == expected


def test_an_unknown_source_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"^unknown backbone source 'tim'; known: timm"):
        split_source("tim:vit_tiny_patch16_224")


def test_the_name_of_a_local_folder_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_model("local-dir:vit") == f"local-dir:{tmp_path}/vit"
    assert absolute_model("timm:local-dir:../vit") == f"timm:local-dir:{tmp_path.parent}/vit"
    assert absolute_model("timm:local-dir:~/vit") == f"timm:local-dir:{Path.home()}/vit"
    assert absolute_model("timm:hf-hub:timm/vit") == "timm:hf-hub:timm/vit"
