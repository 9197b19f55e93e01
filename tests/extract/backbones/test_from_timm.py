"""timm backbones against hooks on their blocks, and every way of asking for what is not there."""

import contextlib
import json
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.data import resolve_model_data_config
from timm.models import VisionTransformer
from torch import Tensor, nn

from tokenprobe.errors import InputError
from tokenprobe.extract.backbones import BackboneRequest, absolute_model, split_source
from tokenprobe.extract.backbones.from_timm import TimmBackbone, load_timm

TINY: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 3, "num_heads": 2}
TINY_BLOCKS: dict[str, Any] = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
NO_PREFIX = {"class_token": False, "global_pool": "avg"}


def load(name: str = "VisionTransformer", arguments: dict[str, Any] | None = None, **changes: Any) -> TimmBackbone:
    fields = {"checkpoint": None, "pretrained": False, "seed": 0}
    return load_timm(BackboneRequest(name, TINY if arguments is None else arguments, **fields | changes))


def made_vit(**changes: Any) -> VisionTransformer:
    torch.manual_seed(5)
    model = VisionTransformer(num_classes=0, **TINY | changes).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def save(model: nn.Module, path: Path, changes: dict[str, Tensor] | None = None, **metadata: str) -> Path:
    save_file({k: v.contiguous() for k, v in (model.state_dict() | (changes or {})).items()}, path, metadata=metadata)
    return path


def hooked(modules: Sequence[nn.Module], model: nn.Module, images: Tensor) -> list[Tensor]:
    outputs: list[Tensor] = []
    handles = [module.register_forward_hook(lambda *seen: outputs.append(seen[2])) for module in modules]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return outputs


def images(height: int = 16, width: int = 16) -> Tensor:
    return torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(1))


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
    backbone = load(arguments=TINY | changes, checkpoint=save(model, tmp_path / "a.safetensors"))
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
        assert torch.equal(prefix, everything[layer][1])


def test_a_distillation_token_has_its_name() -> None:
    arguments = {"img_size": 32, "embed_dim": 12, "depth": 2, "num_heads": 2}
    assert load("deit_tiny_distilled_patch16_224", arguments).prefix_names == ["cls", "dist"]


def test_a_convolutional_model_gives_its_maps_row_by_row() -> None:
    arguments = {"depths": (1, 1, 1, 1), "dims": (4, 8, 12, 16)}
    backbone = load("convnext_atto", arguments)
    outputs = hooked(backbone.module.stages, backbone.module, images(64, 64))
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
    backbone = load(arguments=TINY | changes, checkpoint=save(model, tmp_path / "a.safetensors"))
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
    module = load(arguments=TINY | {"pos_drop_rate": 0.5}).module
    assert not any(part.training for part in module.modules())
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_weights_without_a_checkpoint_are_drawn_from_the_seed_alone() -> None:
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    first = load(seed=0).weights_hash()
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random numbers are left alone"
    torch.manual_seed(4)
    assert load(seed=0).weights_hash() == first
    assert load(seed=1).weights_hash() != first


def test_the_weights_hash_follows_names_types_shapes_and_values() -> None:
    backbone = load()
    hashes = {backbone.weights_hash()}
    with torch.no_grad():
        backbone.module.blocks[2].mlp.fc2.bias[5] += 1e-6
    hashes.add(backbone.weights_hash())
    backbone.module.double()
    hashes.add(backbone.weights_hash())
    backbone.module.cls_token.data = backbone.module.cls_token.data.view(1, 12, 1)
    hashes.add(backbone.weights_hash())
    backbone.module.other = backbone.module.norm
    hashes.add(backbone.weights_hash())
    assert len(hashes) == 5


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
    table = model.pos_embed.detach()
    grid = table[:, 1:].view(1, 6, 6, 12).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=(4, 4), mode="bicubic", antialias=True).permute(0, 2, 3, 1).reshape(1, 16, 12)
    expected = torch.cat([table[:, :1], resized], 1)
    torch.testing.assert_close(backbone.module.pos_embed.data, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"pos_embed": torch.zeros(1, 13, 12)},  # no square grid
        {"pos_embed": torch.zeros(17, 12)},
        {"patch_embed.proj.weight": torch.zeros(12, 47)},
        {"model": torch.zeros(1)},  # a name that timm's conversion takes for a wrapper
    ],
    ids=["pos_embed count", "pos_embed rank", "patch_embed", "name"],
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


@pytest.mark.parametrize("size", [32, 64])
def test_the_transform_is_timms_with_the_size_the_model_was_built_with(size: int) -> None:
    transform = load("vit_tiny_patch16_224", {"img_size": size, "embed_dim": 12, "depth": 1, "num_heads": 2}).transform
    config = resolve_model_data_config(timm.create_model("vit_tiny_patch16_224"))
    assert transform.input_size == (size, size)
    for name in ("interpolation", "crop_pct", "crop_mode", "mean", "std"):
        assert getattr(transform, name) == config[name], name


@pytest.mark.parametrize("size", [(24, 24), (16, 32)])
def test_an_image_size_resamples_the_position_table(tmp_path: Path, size: tuple[int, int]) -> None:
    model = made_vit()
    arguments = {key: value for key, value in TINY.items() if key != "img_size"}
    file = save(model, tmp_path / "a.safetensors")
    backbone = load("vit_tiny_patch16_224", arguments, checkpoint=file, image_size=size)
    table = model.pos_embed.detach()
    grid = (size[0] // 4, size[1] // 4)
    maps = table[:, 1:].view(1, 4, 4, 12).permute(0, 3, 1, 2)
    resized = F.interpolate(maps, size=grid, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    expected = torch.cat([table[:, :1], resized], 1)
    torch.testing.assert_close(backbone.module.pos_embed.data, expected, rtol=1e-5, atol=1e-5)
    assert backbone.transform.input_size == size
    assert {shape.grid for shape in backbone.shapes} == {grid}
    assert backbone.loaded is not None
    assert backbone.loaded.resampled == ["pos_embed"]


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


def test_an_image_size_needs_no_argument_of_a_model_that_sees_any_size() -> None:
    arguments = {"depths": (1, 1, 1, 1), "dims": (4, 8, 12, 16)}
    backbone = load("convnext_atto", arguments, image_size=(64, 96))
    assert backbone.transform.input_size == (64, 96)
    assert backbone.shapes[0].grid == (16, 24)
    assert backbone.weights_hash() == load("convnext_atto", arguments).weights_hash()


def test_an_image_size_said_twice_is_refused() -> None:
    message = (
        r"^image size \(32, 32\) and model argument img_size=16 asked for; give one of --image-size and --model-arg"
    )
    with pytest.raises(InputError, match=message):
        load(image_size=(32, 32))


def test_a_model_that_does_not_keep_its_image_size_still_sees_the_size_it_was_built_with() -> None:
    assert load("efficientvit_m0", {"img_size": 64}).transform.input_size == (64, 64)


def test_mean_and_std_in_the_metadata_leave_scaling_and_normalisation_alone(tmp_path: Path) -> None:
    file = save(made_vit(), tmp_path / "a.safetensors", mean="[0.1, 0.2, 0.3]", std="[0.4, 0.5, 0.6]")
    transform = load(checkpoint=file).transform
    assert (transform.mean, transform.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (transform.input_size, transform.crop_mode, transform.crop_pct) == ((16, 16), "none", None)


@pytest.mark.parametrize("metadata", [{"mean": "[0.1, 0.2, 0.3]"}, {"std": "[0.1, 0.2, 0.3]"}, {"format": "pt"}])
def test_half_of_the_metadata_changes_nothing(tmp_path: Path, metadata: dict[str, str]) -> None:
    file = save(made_vit(), tmp_path / "a.safetensors", **metadata)
    assert load(checkpoint=file).transform == load().transform


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ("0.1,0.2,0.3", "1,1,1"),
        ("0.5", "0.5"),
        ("[0.5, 0.5]", "[1.0, 1.0]"),
        ('["a", "b", "c"]', "[1.0, 1.0, 1.0]"),
        ("[0.5, 0.5, 0.5]", "[0.0, 0.0, 0.0]"),
    ],
)
def test_metadata_that_is_no_mean_and_std_is_refused(tmp_path: Path, mean: str, std: str) -> None:
    file = save(made_vit(), tmp_path / "a.safetensors", mean=mean, std=std)
    with pytest.raises(InputError, match=r"a\.safetensors.*mean"):
        load(checkpoint=file)


def test_an_unknown_model_lists_near_names_first() -> None:
    with pytest.raises(InputError, match=r"^unknown timm model 'vit_tiny_patch16_2244'; known: vit_tiny_patch16_224, "):
        load("vit_tiny_patch16_2244", {})


def test_an_unknown_weights_tag_is_named() -> None:
    with pytest.raises(InputError, match=r"timm model 'vit_tiny_patch16_224\.none' cannot be built: .*tag \(none\)"):
        load("vit_tiny_patch16_224.none", {}, pretrained=True)


def test_an_architecture_has_no_published_weights() -> None:
    message = "^timm architecture 'VisionTransformer' has no published weights; give --checkpoint or --no-pretrained$"
    with pytest.raises(InputError, match=message):
        load(pretrained=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 2}, r"does not take \{.*'heads': 2\}: .*unexpected keyword argument 'heads'"),
        ({"depth": "three"}, r"does not take \{.*'depth': 'three'"),
        ({"num_heads": 5}, "cannot be built: dim should be divisible by num_heads"),
        ({"patch_size": 0}, "timm model 'VisionTransformer' .*"),
        ({"depth": 0}, "timm model 'VisionTransformer' .*"),
        ({"in_chans": 1}, "timm model 'VisionTransformer' .*channels"),
    ],
    ids=str,
)
def test_arguments_the_model_cannot_take_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(arguments=TINY | change)


def test_an_image_size_the_model_cannot_run_at_is_an_input_error() -> None:
    with pytest.raises(InputError, match="timm model 'hiera_tiny_224' "):
        load("hiera_tiny_224", {"img_size": 63})


def test_a_model_without_intermediate_outputs_is_refused() -> None:
    message = (
        r"^timm model 'resnet10t' does not give its blocks' outputs: it has no forward_intermediates, and its feature"
    )
    with pytest.raises(InputError, match=message):
        load("resnet10t", {"features_only": True})


@pytest.mark.parametrize("name", ["tnt_s_legacy_patch16_224", "naflexvit_base_patch16_gap"])
def test_a_model_without_a_patch_grid_is_refused_or_gives_its_tokens(name: str) -> None:
    """Not an AttributeError: whatever timm has, the user reads one line."""
    assert timm.is_model(name)
    with contextlib.suppress(InputError):
        backbone = load(name, {"depth": 1})
        patch, _ = backbone.tokens(torch.zeros(1, 3, *backbone.transform.input_size), [0])[0]
        assert patch.shape[1:] == (backbone.shapes[0].n_patches, backbone.shapes[0].dim)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub to reach and nothing in its cache, whatever this machine has."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "hf-hub:tokenprobe/no-such-model"])
def test_an_unreachable_hub_offers_the_way_out(name: str) -> None:
    message = (
        rf"^the weights of timm model '{name}' could not be fetched \(.+\); "
        "give a local file with --checkpoint, or --no-pretrained$"
    )
    with pytest.raises(InputError, match=message):
        load(name, {}, pretrained=True)


def test_a_local_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the weights of timm model 'local-dir:.*none' could not be fetched"):
        load(f"local-dir:{tmp_path}/none", {}, pretrained=True)


def test_a_local_folder_gives_its_weights_and_leaves_no_path_in_the_name(tmp_path: Path) -> None:
    arguments = {"img_size": 32, "embed_dim": 12, "depth": 2, "num_heads": 2}
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
    arguments = {"embed_dim": 8, "stages": [1, 1, 1, 1]}
    save(timm.create_model("hiera_tiny_224", num_classes=0, **arguments), tmp_path / "model.safetensors")
    config: dict[str, Any] = {"architecture": "hiera_tiny_224", "num_classes": 0, "model_args": arguments}
    config["pretrained_cfg"] = {"input_size": [3, 224, 224], "num_classes": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load(f"local-dir:{tmp_path}", {}, pretrained=True).shapes[0].grid == (56, 56)
    with pytest.raises(
        InputError, match=r"cannot be built: Error\(s\) in loading .*: size mismatch for pos_embed: .*3136"
    ):
        load(f"local-dir:{tmp_path}", {}, pretrained=True, image_size=(128, 128))


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


def test_the_seeded_weights_are_those_of_a_model_made_under_that_seed() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(num_classes=0, **TINY)
    np.testing.assert_array_equal(load(seed=0).module.cls_token.numpy(), model.cls_token.detach().numpy())


def test_the_name_of_a_local_folder_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_model("local-dir:vit") == f"local-dir:{tmp_path}/vit"
    assert absolute_model("timm:local-dir:../vit") == f"timm:local-dir:{tmp_path.parent}/vit"
    assert absolute_model("timm:hf-hub:timm/vit") == "timm:hf-hub:timm/vit"
