"""Weights of timm models: drawn, from checkpoints and from folders, resampled if grids differ, or refused."""

import json
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models import VisionTransformer
from torch import Tensor, nn

from tokenprobe.errors import InputError
from tokenprobe.extract.backbones.weights.loading import Reading

from ...conftest import TINY_VIT
from .kit import TINY_BLOCKS, load, made_vit, save


def test_a_checkpoint_decides_the_weights_whatever_the_seed(tmp_path: Path) -> None:
    model = made_vit()
    file = save(model, tmp_path / "a.safetensors")
    for seed in (0, 1):
        found = load(checkpoint=file, seed=seed, pretrained=True).module.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_keys_without_a_place_are_listed(tmp_path: Path) -> None:
    extra = {"head.weight": torch.zeros(5, 12), "decoder.norm": torch.zeros(3)}
    backbone = load(checkpoint=save(made_vit(), tmp_path / "a.safetensors", extra))
    assert backbone.loaded is not None
    assert sorted(backbone.loaded.ignored) == ["decoder.norm", "head.weight"]


def test_a_position_table_of_another_grid_is_resampled(tmp_path: Path) -> None:
    model = made_vit(img_size=24)
    backbone = load(checkpoint=save(model, tmp_path / "a.safetensors"))
    table = model.get_parameter("pos_embed").detach()
    grid = table[:, 1:].view(1, 6, 6, 12).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=(4, 4), mode="bicubic", antialias=True).permute(0, 2, 3, 1).reshape(1, 16, 12)
    expected = torch.cat([table[:, :1], resized], 1)
    torch.testing.assert_close(backbone.module.pos_embed.data, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(24, 24), (16, 32)])
def test_an_image_size_resamples_the_position_table(tmp_path: Path, size: tuple[int, int]) -> None:
    model = made_vit()
    arguments = {key: value for key, value in TINY_VIT.items() if key != "img_size"}
    file = save(model, tmp_path / "a.safetensors")
    backbone = load("vit_tiny_patch16_224", arguments, checkpoint=file, image_size=size)
    table = model.get_parameter("pos_embed").detach()
    grid = (size[0] // 4, size[1] // 4)
    maps = table[:, 1:].view(1, 4, 4, 12).permute(0, 3, 1, 2)
    resized = F.interpolate(maps, size=grid, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    expected = torch.cat([table[:, :1], resized], 1)
    torch.testing.assert_close(backbone.module.pos_embed.data, expected, rtol=1e-5, atol=1e-5)
    assert backbone.transform.input_size == size
    assert {shape.grid for shape in backbone.shapes} == {grid}
    assert backbone.loaded is not None
    assert backbone.loaded.resampled == ["pos_embed"]


@pytest.mark.parametrize("name", ["VisionTransformer", "vit_tiny_patch16_224"])
@pytest.mark.parametrize(("grid", "size"), [((6, 6), (16, 36)), ((4, 9), (24, 24)), ((4, 9), (16, 36))])
def test_a_grid_that_counts_leave_open_is_asked_for(
    name: str, grid: tuple[int, int], size: tuple[int, int], tmp_path: Path
) -> None:
    own = (size[0] // 4, size[1] // 4)
    model = made_vit(img_size=(grid[0] * 4, grid[1] * 4))
    file = save(model, tmp_path / "a.safetensors")
    if own != (6, 6):
        with pytest.raises(InputError, match="may have the grid 6 × 6 or the backbone's 4 × 9; choose one, such"):
            load(name, TINY_VIT | {"img_size": size}, checkpoint=file)
    backbone = load(name, TINY_VIT | {"img_size": size}, checkpoint=file, reading=Reading(grid=grid))
    table = model.get_parameter("pos_embed").detach()
    maps = table[:, 1:].view(1, *grid, 12).permute(0, 3, 1, 2)
    resized = F.interpolate(maps, size=own, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    expected = table if own == grid else torch.cat([table[:, :1], resized], 1)
    torch.testing.assert_close(backbone.module.pos_embed.data, expected, rtol=1e-5, atol=1e-5)
    assert backbone.loaded is not None
    unchanged = "assumed to have the backbone's grid, 4 × 9"
    words = f"of {grid[0]} × {grid[1]} resampled to {own[0]} × {own[1]}" if own != grid else unchanged
    assert f"checkpoint: position table {words}" in backbone.loaded.lines()[1]


RESIZED: dict[str, dict[str, Any]] = {
    "vit_base_patch16_siglip_224": TINY_BLOCKS,
    "vit_small_patch14_reg4_dinov2": TINY_BLOCKS,
    "deit_tiny_distilled_patch16_224": TINY_BLOCKS,
    "flexivit_small": TINY_BLOCKS,
    **dict.fromkeys(timm.list_models("vit_*radio*"), TINY_BLOCKS),
    "aimv2_large_patch14_224": TINY_BLOCKS,
    "beitv2_base_patch16_224": TINY_BLOCKS,
    "eva02_tiny_patch14_224": TINY_BLOCKS,
    "vit_pe_core_base_patch16_224": TINY_BLOCKS,
    "swin_tiny_patch4_window7_224": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]},
}


@pytest.mark.filterwarnings("ignore::UserWarning:timm.layers.interpolate")
@pytest.mark.parametrize("name", RESIZED)
def test_an_image_size_resamples_the_tables_of_a_checkpoint_as_timm_does_those_of_its_weights(
    name: str, tmp_path: Path
) -> None:
    arguments = RESIZED[name]
    model = timm.create_model(name, num_classes=0, **arguments)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    save(model, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": name, "num_classes": 0, "pretrained_cfg": {}}))
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, img_size=(64, 96), **arguments).state_dict()
    backbone = load(name, arguments, checkpoint=tmp_path / "model.safetensors", image_size=(64, 96))
    ours = backbone.module.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())
    assert backbone.loaded is not None
    assert backbone.loaded.resampled
    assert all(re.search("pos_embed|relative_position_bias_table", key) for key in backbone.loaded.resampled)


def test_layer_scales_of_deit3_have_the_names_that_its_authors_gave_them(tmp_path: Path) -> None:
    model = timm.create_model("deit3_small_patch16_224", num_classes=0, **TINY_BLOCKS)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    own = model.state_dict()
    theirs = {re.sub(r"ls([12])\.gamma", r"gamma_\1", key): tensor for key, tensor in own.items()}
    assert "blocks.0.gamma_1" in theirs
    torch.save({"model": theirs}, tmp_path / "a.pth")
    found = load("deit3_small_patch16_224", TINY_BLOCKS, checkpoint=tmp_path / "a.pth").module.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in own.items())


@pytest.mark.parametrize(
    "changes",
    [
        {"pos_embed": torch.zeros(17, 12)},
        {"patch_embed.proj.weight": torch.zeros(12, 47)},
        {"model": torch.zeros(1)},  # a name that timm's conversion takes for a wrapper
    ],
    ids=["pos_embed rank", "patch_embed", "name"],
)
def test_weights_that_timm_cannot_convert_do_not_fit(tmp_path: Path, changes: dict[str, Tensor]) -> None:
    file = save(made_vit(), tmp_path / "a.safetensors", changes)
    with pytest.raises(InputError, match=r"checkpoint '.*a\.safetensors' .*--model"):
        load(checkpoint=file)


def test_weights_of_a_transformer_do_not_fit_a_convnext(tmp_path: Path) -> None:
    file = save(made_vit(), tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"checkpoint '.*a\.safetensors' .*--model"):
        load("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (4, 8, 12, 16)}, checkpoint=file)


def test_a_checkpoint_of_another_width_does_not_fit(tmp_path: Path) -> None:
    file = save(made_vit(embed_dim=24), tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"does not fit: '\S+' is \(.*24.*\) there and \(.*12.*\) in the backbone"):
        load(checkpoint=file)


def test_a_checkpoint_of_a_shallower_model_does_not_fit(tmp_path: Path) -> None:
    file = save(made_vit(depth=2), tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"does not fit: it lacks 12 of the backbone's 42 weights, such as 'blocks\.2"):
        load(checkpoint=file)


def test_a_local_folder_gives_its_weights_and_leaves_no_path_in_the_name(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"img_size": 32, "embed_dim": 12, "depth": 2, "num_heads": 2}
    torch.manual_seed(9)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **arguments)
    folder = tmp_path / "mine"
    folder.mkdir()
    save(model, folder / "model.safetensors")
    config: dict[str, Any] = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": arguments}
    config["pretrained_cfg"] = {"input_size": [3, 32, 32], "num_classes": 0}
    (folder / "config.json").write_text(json.dumps(config))
    backbone = load(f"local-dir:{folder}", {}, pretrained=True)
    assert backbone.name == "timm:local-dir:mine"
    found = backbone.module.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_weights_that_timm_does_not_resample_say_which_do_not_fit(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"embed_dim": 8, "stages": [1, 1, 1, 1]}
    save(timm.create_model("hiera_tiny_224", num_classes=0, **arguments), tmp_path / "model.safetensors")
    config: dict[str, Any] = {"architecture": "hiera_tiny_224", "num_classes": 0, "model_args": arguments}
    config["pretrained_cfg"] = {"input_size": [3, 224, 224], "num_classes": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(f"local-dir:{tmp_path}", {}, pretrained=True).shapes[0].grid == (56, 56)
    with pytest.raises(
        InputError, match=r"cannot be built: Error\(s\) in loading .*: size mismatch for pos_embed: .*3136"
    ):
        load(f"local-dir:{tmp_path}", {}, pretrained=True, image_size=(128, 128))


def test_the_weights_hash_follows_names_types_shapes_and_values() -> None:
    backbone = load()
    hashes, module = {backbone.weights_hash()}, cast(Any, backbone.module)
    with torch.no_grad():
        module.blocks[2].mlp.fc2.bias[5] += 1e-6
    hashes.add(backbone.weights_hash())
    module.double()
    hashes.add(backbone.weights_hash())
    module.cls_token.data = module.cls_token.data.view(1, 12, 1)
    hashes.add(backbone.weights_hash())
    module.other = module.norm
    hashes.add(backbone.weights_hash())
    assert len(hashes) == 5


def test_weights_without_a_checkpoint_are_drawn_from_the_seed_alone() -> None:
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    first = load(seed=0).weights_hash()
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random numbers are left alone"
    torch.manual_seed(4)
    assert load(seed=0).weights_hash() == first
    assert load(seed=1).weights_hash() != first


def test_the_seeded_weights_are_those_of_a_model_made_under_that_seed() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(num_classes=0, **TINY_VIT)
    found, expected = (each.state_dict()["cls_token"].numpy() for each in (load(seed=0).module, model))
    np.testing.assert_array_equal(found, expected)
