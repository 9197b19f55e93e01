"""torch.hub models of a local repository: tokens against the outputs of their blocks, run one by one."""

import re
import urllib.error
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenprobe.errors import InputError, MissingError
from tokenprobe.extract.backbones import BackboneRequest, absolute_model, split_source
from tokenprobe.extract.backbones.from_hub import (
    DEFAULT_SIZE,
    FAMILIES,
    PUBLISHED,
    HubBackbone,
    hub_names,
    hub_shapes,
    load_hub,
    split_entry,
)
from tokenprobe.store.layout import LayerShape

from .kit import pretrained_cfg

REPOSITORY = Path(__file__).parents[2] / "data" / "hub"
REGISTERS = ["reg0", "reg1", "reg2", "reg3"]


def load(entry: str, **changes: Any) -> HubBackbone:
    fields: dict[str, Any] = {"arguments": {}, "checkpoint": None, "pretrained": True, "seed": 0}
    return load_hub(BackboneRequest(f"{REPOSITORY}/{entry}", **fields | {"image_size": (16, 24)} | changes))


def images(height: int = 16, width: int = 24) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("entry", "depth", "prefix"),
    [
        ("dinov2_tiny", 3, ["cls"]),
        ("dinov2_tiny_reg", 3, ["cls", *REGISTERS]),
        ("franca_tiny_chunked", 4, ["cls"]),
        ("dinov3_tiny", 3, ["cls", "reg0", "reg1"]),
        ("dino_tiny", 3, ["cls"]),
        ("capi_tiny", 3, REGISTERS),
        ("radio_tiny", 3, ["cls", "cls1", "cls2", "reg0", "reg1"]),
    ],
)
def test_tokens_are_the_outputs_of_the_blocks(entry: str, depth: int, prefix: list[str]) -> None:
    size = (16, 16) if entry == "capi_tiny" else (16, 24)
    backbone = load(entry, image_size=size)
    assert backbone.prefix_names == prefix
    assert [(shape.grid, shape.dim) for shape in backbone.shapes] == [((4, size[1] // 4), 12)] * depth
    with torch.no_grad():
        expected = cast(Any, backbone.module).reference(images(*size))
    tokens = backbone.tokens(images(*size), range(depth))
    for layer, rows in enumerate(expected):
        patch, found_prefix = tokens[layer]
        assert found_prefix is not None
        assert backbone.shapes[layer].n_prefix == found_prefix.shape[1] == len(prefix)
        torch.testing.assert_close(torch.cat([found_prefix, patch], 1), rows)


@pytest.mark.parametrize(
    ("entry", "kind"), [("dinov2_tiny", "LayerNorm"), ("dinov3_tiny", "LayerNorm"), ("capi_tiny", "RMSNorm")]
)
def test_the_final_norm_turns_the_last_layer_into_the_models_output(entry: str, kind: str) -> None:
    backbone = load(entry, image_size=(16, 16))
    norm = backbone.final_norm()
    assert norm is not None
    assert norm["kind"] == kind
    patch, prefix = backbone.tokens(images(16, 16), [2])[2]
    with torch.no_grad():
        output = backbone.module(images(16, 16))
    if kind == "RMSNorm":
        normed = F.rms_norm(patch, (12,), eps=norm["eps"])
        torch.testing.assert_close(normed, output[2].flatten(1, 2))
    else:
        assert prefix is not None
        normed = F.layer_norm(
            prefix[:, 0], (12,), torch.tensor(norm["weight"]), torch.tensor(norm["bias"]), norm["eps"]
        )
        torch.testing.assert_close(normed, output, rtol=1e-4, atol=1e-5)


def test_every_family_has_an_entry_here() -> None:
    names = ", ".join(family.name for family in FAMILIES).lower()
    for entry in ("dinov2", "franca", "dinov3", "dino", "capi", "radio"):
        assert entry in names


IN_TIMM = {
    "dino_vits16": "vit_small_patch16_224",
    "dino_vits8": "vit_small_patch8_224",
    "dino_vitb16": "vit_base_patch16_224",
    "dino_vitb8": "vit_base_patch8_224",
    "dinov2_vits14": "vit_small_patch14_dinov2",
    "dinov2_vitb14": "vit_base_patch14_dinov2",
    "dinov2_vitl14": "vit_large_patch14_dinov2",
    "dinov2_vitg14": "vit_giant_patch14_dinov2",
    "dinov2_vits14_reg": "vit_small_patch14_reg4_dinov2",
    "dinov2_vitb14_reg": "vit_base_patch14_reg4_dinov2",
    "dinov2_vitl14_reg": "vit_large_patch14_reg4_dinov2",
    "dinov2_vitg14_reg": "vit_giant_patch14_reg4_dinov2",
    "dinov3_vits16": "vit_small_patch16_dinov3",
    "dinov3_vits16plus": "vit_small_plus_patch16_dinov3",
    "dinov3_vitb16": "vit_base_patch16_dinov3",
    "dinov3_vitl16": "vit_large_patch16_dinov3",
    "dinov3_vith16plus": "vit_huge_plus_patch16_dinov3",
    "dinov3_vit7b16": "vit_7b_patch16_dinov3",
    "franca_vitb14": "vit_base_patch14_dinov2",
    "franca_vitl14": "vit_large_patch14_dinov2",
    "franca_vitg14": "vit_giant_patch14_dinov2",
}
"""The same architectures. timm lacks CAPI's, a ViT-L/14 with 16 registers and no class token."""


@pytest.mark.parametrize("name", hub_names())
def test_published_models_have_the_shapes_that_timm_gives_theirs(name: str) -> None:
    entry = split_entry(name)[1]
    if entry.startswith("capi"):
        with torch.device("meta"):
            model: Any = timm.create_model("vit_large_patch14_224", class_token=False, reg_tokens=16, global_pool="avg")
    else:
        with torch.device("meta"):
            model = timm.create_model(IN_TIMM[entry], img_size=DEFAULT_SIZE)
    grid = model.patch_embed.grid_size
    assert hub_shapes(name) == [LayerShape(grid, model.embed_dim, model.num_prefix_tokens)] * len(model.blocks)


def test_published_models_are_of_the_families_in_the_table() -> None:
    families = ", ".join(family.name for family in FAMILIES).lower()
    assert {repository.rpartition("/")[2].partition(":")[0].lower() for repository in PUBLISHED} < set(
        re.findall(r"\w+", families)
    )


def test_the_transform_is_imagenets_but_for_a_model_that_normalises_for_itself() -> None:
    transform = load("dinov2_tiny", image_size=None, arguments={"patch_size": 14}).transform
    assert (transform.input_size, transform.crop_mode, transform.interpolation) == ((224, 224), "center", "bicubic")
    assert transform.crop_pct == 224 / 256
    assert (transform.mean, transform.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    radio = load("radio_tiny").transform
    assert (radio.mean, radio.std) == ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize("argument", ["SAT493M", "/weights/dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth"])
def test_weights_of_satellite_images_have_a_mean_of_their_own(argument: str, tmp_path: Path) -> None:
    theirs = pretrained_cfg("vit_large_patch16_dinov3.sat493m")
    transform = load("dinov2_tiny", arguments={"weights": argument}).transform
    assert (transform.mean, transform.std) == (theirs.mean, theirs.std)
    torch.save(load("dinov2_tiny").module.state_dict(), tmp_path / "a_sat493m.pth")
    transform = load("dinov2_tiny", checkpoint=tmp_path / "a_sat493m.pth").transform
    assert (transform.mean, transform.std) == (theirs.mean, theirs.std)


def test_published_weights_are_the_entrys_and_drawn_ones_the_seeds() -> None:
    published = load("dinov2_tiny", seed=0).weights_hash()
    assert load("dinov2_tiny", seed=1).weights_hash() == published
    drawn = [load("dinov2_tiny", pretrained=False, seed=seed).weights_hash() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert len({published, *drawn}) == 3


def test_a_checkpoint_gives_the_weights(tmp_path: Path) -> None:
    model = load("dinov3_tiny", pretrained=False, seed=7).module
    teacher = {f"backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"teacher": teacher | {"dino_head.mlp.0.weight": torch.zeros(2, 2)}}, tmp_path / "a.pth")
    backbone = load("dinov3_tiny", checkpoint=tmp_path / "a.pth")
    found = backbone.module.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    assert backbone.loaded is not None
    assert backbone.loaded.ignored == ["teacher.dino_head.mlp.0.weight"]


def test_a_manifest_keeps_no_folders(tmp_path: Path) -> None:
    weights = tmp_path / "a.pth"
    weights.touch()
    backbone = load("dinov2_tiny", arguments={"weights": str(weights), "patch_size": 4})
    assert backbone.name == "hub:hub/dinov2_tiny"
    assert backbone.arguments == {"weights": "a.pth", "patch_size": 4}


def test_the_name_of_a_local_repository_is_made_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY.parent)
    assert absolute_model("hub:hub/dinov2_tiny") == f"hub:{REPOSITORY}/dinov2_tiny"
    assert absolute_model("hub:facebookresearch/dinov2/dinov2_vitb14") == "hub:facebookresearch/dinov2/dinov2_vitb14"
    assert split_source("hub:facebookresearch/dinov2/dinov2_vitb14")[0] == "hub"


@pytest.mark.parametrize("name", ["dinov2_vitb14", "/dinov2_vitb14", "facebookresearch/dinov2/"])
def test_a_name_of_another_form_is_told_the_form(name: str) -> None:
    with pytest.raises(InputError, match=rf"^hub model '{name}': expected REPO/ENTRY, such as hub:facebookresearch/"):
        load_hub(BackboneRequest(name, {}, None, True, 0))


@pytest.mark.parametrize(
    ("entry", "options", "message"),
    [
        ("classifier", {}, r"has an unknown structure: Linear has no list of blocks as in RADIO; CAPI; "),
        ("broken", {}, r"could not be loaded \(no route to the weights\); without a network, name a local clone and "),
        ("none", {}, r"could not be loaded \(.*none.*\); without a network"),
        ("dinov2_tiny", {"arguments": {"patch": 4}}, r"does not take \{'patch': 4\}: .*unexpected keyword argument"),
        ("capi_tiny", {"pretrained": False}, r"does not take \{'pretrained': False\}: .*unexpected keyword argument"),
        ("wrong_patch_size", {}, r"fails on .*: 25 tokens are fewer than a grid of \(8, 12\) and 1 class tokens"),
        ("dinov2_tiny", {"image_size": (2, 2)}, r"fails on images of \(2, 2\) pixels: "),
    ],
)
def test_what_cannot_be_had_is_told_in_one_line(entry: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^hub model '.*/hub/{entry}' {message}") as caught:
        load(entry, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("repository", ["./none", "/none/dinov3", "none", "../some/none"])
def test_a_folder_that_is_not_there_is_named(repository: str) -> None:
    expected = rf"^no folder at '{repository}'; expected a hubconf.py in it, with the entry 'vit'$"
    with pytest.raises(MissingError, match=expected):
        load_hub(BackboneRequest(f"{repository}/vit", {}, None, True, 0))


def test_an_unreachable_github_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*arguments: Any, **options: Any) -> None:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    monkeypatch.setattr(torch.hub, "urlretrieve", unreachable, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"^hub model 'org/none/vit' could not be loaded \(.+\); without a network"):
        load_hub(BackboneRequest("org/none/vit", {}, None, True, 0))
