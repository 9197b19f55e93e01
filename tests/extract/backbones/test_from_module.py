"""Modules of users' own: their tokens against hooks, their identity, and what is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import transforms

from tokenprobe.errors import InputError
from tokenprobe.extract import ExtractConfig, describe_extraction, extract
from tokenprobe.extract.backbones import Backbone, ModuleBackbone, code_of, load_backbone
from tokenprobe.extract.views import Transform
from tokenprobe.store import open_store

from ...conftest import TINY_VIT
from .kit import hooked, images, made_vit

GREY: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.25] * 3}


class PlainViT(nn.Module):
    """A class token, a register and patches, in an order that is no square: 16 × 32 pixels in patches of 4."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 4, stride=4)
        self.prefix = nn.Parameter(torch.randn(1, 2, dim))
        layers = [nn.TransformerEncoderLayer(dim, 2, 16, batch_first=True, norm_first=True) for _ in range(3)]
        self.layers = nn.ModuleList(layers)
        self.encoder = nn.ModuleDict({"layers": self.layers})
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.prefix.expand(len(x), -1, -1), x], dim=1)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class Maps(nn.Module):
    """Maps with the channels first, then last, and in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.last = ToLast()
        self.pair = Pair()
        self.unused = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pair(self.last(self.first(x)).permute(0, 3, 1, 2))[0].mean((2, 3))


class ToLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu().permute(0, 2, 3, 1)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 5, 2, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.conv(x), None


def wrapped(module: nn.Module | None = None, blocks: Any = "encoder.layers", **changes: Any) -> ModuleBackbone:
    torch.manual_seed(3)
    fields: dict[str, Any] = {"image_size": (16, 32), "prefix_names": ["cls", "reg0"], "norm": "norm"}
    return ModuleBackbone(PlainViT() if module is None else module, blocks, **GREY | fields | changes)


def of_maps(**changes: Any) -> ModuleBackbone:
    torch.manual_seed(4)
    fields: dict[str, Any] = {"image_size": 16, "prefix_names": [], "norm": None}
    return ModuleBackbone(Maps(), ["first", "last", "pair"], **GREY | fields | changes)


def test_tokens_of_a_plain_vit_are_its_blocks_outputs() -> None:
    torch.manual_seed(3)
    module = PlainViT().train()
    backbone = ModuleBackbone(module, "encoder.layers", image_size=(16, 32), prefix_names=["cls", "reg0"], **GREY)
    assert [(s.grid, s.dim, s.n_prefix) for s in backbone.shapes] == [((4, 8), 8, 2)] * 3
    x = images(16, 32)
    expected = hooked(list(module.eval().layers), module, x)
    found = backbone.tokens(x, [0, 2])
    assert list(found) == [0, 2]
    for layer, (patch, prefix) in found.items():
        assert prefix is not None
        assert torch.equal(prefix, expected[layer][:, :2])
        assert torch.equal(patch, expected[layer][:, 2:])


def test_tokens_of_maps_are_row_by_row_with_channels_first_or_last() -> None:
    backbone = of_maps()
    assert [(s.grid, s.dim, s.n_prefix) for s in backbone.shapes] == [((8, 8), 6, 0), ((8, 8), 6, 0), ((4, 4), 5, 0)]
    module, x = backbone.module, images()
    first, last, pair = hooked([module.first, module.last, module.pair], module, x)  # type: ignore[list-item]
    found = backbone.tokens(x, [0, 1, 2])
    assert torch.equal(found[0][0], torch.stack([first[:, :, i, j] for i in range(8) for j in range(8)], 1))
    assert torch.equal(found[1][0], torch.stack([last[:, i, j] for i in range(8) for j in range(8)], 1))
    assert torch.equal(found[2][0], torch.stack([pair[0][:, :, i, j] for i in range(4) for j in range(4)], 1))
    assert found[0][1] is None


def test_a_timm_model_gives_the_tokens_that_its_name_gives() -> None:
    named = load_backbone("timm:VisionTransformer", model_arg=TINY_VIT, no_pretrained=True, seed=7)
    own = ModuleBackbone(named.module, "blocks", image_size=16, prefix_names=["cls"], norm="norm", **GREY)
    assert list(own.shapes) == list(named.shapes)
    assert own.final_norm() == named.final_norm()
    x = images()
    for layer, (patch, prefix) in named.tokens(x, [0, 1, 2]).items():
        own_patch, own_prefix = own.tokens(x, [layer])[layer]
        assert torch.equal(own_patch, patch)
        assert prefix is not None
        assert own_prefix is not None
        assert torch.equal(own_prefix, prefix)
    conv = timm.create_model("resnet10t", num_classes=0, channels=[8, 8, 8, 8], stem_width=8).eval()
    stages = ModuleBackbone(conv, ["act1", *(f"layer{i}" for i in range(1, 5))], image_size=64, **GREY)
    forward: Any = conv.forward_intermediates
    outputs = forward(images(64, 64), intermediates_only=True)
    for layer, (patch, _) in stages.tokens(images(64, 64), range(5)).items():
        assert torch.equal(patch, outputs[layer].flatten(2).transpose(1, 2))


def test_the_module_is_copied_and_frozen() -> None:
    module = PlainViT().train()
    backbone = wrapped(module)
    assert not backbone.module.training
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    before = backbone.weights_hash()
    with torch.no_grad():
        module.prefix.add_(1)
    assert backbone.weights_hash() == before != wrapped(module).weights_hash()


class Renamed(PlainViT):
    """Equal, but for its name."""


def test_the_identity_covers_weights_class_blocks_prefix_and_norm() -> None:
    paths = [f"encoder.layers.{index}" for index in range(3)]
    torch.manual_seed(3)
    renamed = Renamed()
    renamed.load_state_dict(wrapped().module.state_dict())
    other = made_state(PlainViT())
    same, *others = [
        wrapped(blocks=paths),
        wrapped(blocks=paths[:2]),
        wrapped(blocks=paths[::-1]),
        wrapped(prefix_names=["cls", "cls1"]),
        wrapped(norm=None),
        wrapped(renamed),
        wrapped(other),
    ]
    assert same.weights_hash() == wrapped().weights_hash()
    assert len({each.weights_hash() for each in [same, *others]}) == 7


def made_state(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def config_of(image_folder: Path, out: Path, model: Any, **changes: Any) -> ExtractConfig:
    fields: dict[str, Any] = {
        "data": f"folder:{image_folder}",
        "out": out,
        "workers": 0,
        "batch_size": 8,
        "dtype": "float32",
    }
    return ExtractConfig(model=model, **fields | changes)


def test_a_store_is_continued_by_the_same_module_alone(image_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.zarr"
    backbone = of_maps()
    assert any("module:Maps, 3 layers" in line for line in describe_extraction(config_of(image_folder, out, backbone)))
    extract(config_of(image_folder, out, backbone, layers="0,1"))
    extract(config_of(image_folder, out, of_maps(), layers="all"))
    store = open_store(out)
    assert store.layers == [0, 1, 2]
    recipe = store.manifest.recipe
    assert (recipe.model, recipe.weights) == ("module:Maps", backbone.weights_hash())
    assert recipe.model_args == {"blocks": ["first", "last", "pair"], "prefix_names": [], "norm": None}
    fewer = ModuleBackbone(backbone.module, ["first", "last"], image_size=16, **GREY)
    for other in (fewer, of_maps(std=[0.3] * 3), ModuleBackbone(made_state(Maps()), ["first"], image_size=16, **GREY)):
        with pytest.raises(ValueError, match=r"weights|transform"):
            extract(config_of(image_folder, out, other))


def test_the_transform_may_be_torchvisions_or_ours() -> None:
    steps = [transforms.Resize(20), transforms.CenterCrop(16), transforms.ToTensor()]
    found = of_maps(transform=transforms.Compose(steps), image_size=None, mean=None, std=None).transform
    expected = Transform((16, 16), "bilinear", 0.8, "center", (0.0,) * 3, (1.0,) * 3)
    assert found == expected
    assert of_maps(transform=expected, image_size=None, mean=None, std=None).transform is expected
    assert of_maps().transform == Transform((16, 16), "bicubic", None, "none", (0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefix_names": "cls"}, r"^prefix_names 'cls': expected a list of names, such as \['cls'\]$"),
        ({"blocks": "encoder.layer"}, r"^unknown module of PlainViT 'encoder\.layer'; known: encoder, layers, "),
        ({"blocks": "norm"}, r"^blocks 'norm' is a LayerNorm, not a list of blocks; give .* blocks=\['norm'\]$"),
        ({"norm": "patches"}, r"^norm 'patches' is a Conv2d; expected a LayerNorm or an RMSNorm$"),
        ({"mean": None}, r"^give a transform of torchvision, or image_size, mean and std; not both$"),
        ({"image_size": None}, r"^give a transform of torchvision, or image_size, mean and std; not both$"),
        ({"transform": transforms.Resize(8)}, r"^give a transform of torchvision, or image_size, mean and std; not b"),
        ({"image_size": (2, 2)}, r"^'module:PlainViT' fails on images of 3 channels and \(2, 2\) pixels: "),
        (
            {"prefix_names": ["cls"]},
            r"^block 'encoder\.layers\.0' of 'module:PlainViT' returns \(2, 34, 8\) for 2 images of \(16, 32\) pixels; "
            r"expected \(B, tokens, dim\), of 1 prefix tokens and a grid of patches like the images, .* prefix_names, ",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        wrapped(**changes)


def test_a_block_that_does_not_run_or_returns_no_tokens_is_named() -> None:
    with pytest.raises(InputError, match=r"^block 'unused' of 'module:Maps' does not run when the module is called"):
        ModuleBackbone(Maps(), ["first", "unused"], image_size=16, **GREY)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    with pytest.raises(InputError, match=r"^block '1' of 'module:Sequential' returns \(2, 4\) for 2 images of \(16, 1"):
        ModuleBackbone(flat, ["1"], image_size=16, **GREY)


def test_a_module_is_given_wrapped_and_alone(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^model is a Maps; give a name, or ModuleBackbone\(module, blocks=…\) of "):
        extract(config_of(image_folder, tmp_path / "a.zarr", Maps()))
    for name, value in (("model_arg", {"a": 1}), ("image_size", 16), ("no_pretrained", True), ("checkpoint", "a")):
        with pytest.raises(
            InputError, match=rf"^{name} .* builds a backbone by name, .* built already; leave {name} ou"
        ):
            extract(config_of(image_folder, tmp_path / "a.zarr", of_maps(), **{name: value}))
    with pytest.raises(
        InputError, match=r"^engine 'ray' loads the backbone in several processes, by its name, but the"
    ):
        extract(config_of(image_folder, tmp_path / "a.zarr", of_maps(), engine="ray"))
    with pytest.raises(InputError, match=r"^backbone 'module:Maps' is a module of somebody's own and cannot be built"):
        load_backbone("module:Maps")


def test_weights_that_are_not_finite_are_refused_here_too() -> None:
    backbone = of_maps()
    with torch.no_grad():
        backbone.module.get_parameter("first.bias").fill_(torch.nan)
    with pytest.raises(InputError, match=r"^backbone 'module:Maps' has weights that are not finite, such as 'first\.b"):
        load_backbone(backbone)


CODE = """
import torch
from torch import nn
from tokenprobe.errors import InputError
from tokenprobe.extract.backbones import ModuleBackbone

def make(dim=4, fails=False):
    if fails:
        raise RuntimeError("no weights here")
    net = nn.Sequential(nn.Conv2d(3, dim, 4, stride=4))
    return ModuleBackbone(net, ["0"], image_size=16, mean=[0.5] * 3, std=[0.5] * 3)

def nothing():
    pass

def refuses():
    raise InputError("in my own words")
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mypkg_backbones.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    return "python:mypkg_backbones"


def test_a_function_by_name_makes_the_backbone(code: str) -> None:
    one, other, third = (
        load_backbone(f"{code}:make", model_arg={"dim": 6}, seed=seed, no_pretrained=False) for seed in (1, 1, 2)
    )
    assert isinstance(one, Backbone)
    assert (one.name, one.arguments, one.shapes[0].dim) == (f"{code}:make", {"dim": 6}, 6)
    assert one.weights_hash() == other.weights_hash() != third.weights_hash()
    assert code_of(f"{code}:make", {}) == "the Python module 'mypkg_backbones'"


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (":nothing", {}, r"^backbone '{}:nothing' is a NoneType; return a ModuleBackbone\(module, …\)$"),
        (":refuses", {}, r"^in my own words$"),
        (
            ":make",
            {"model_arg": {"fails": True}},
            r"^backbone '{}:make' with .*'fails': True.* fails: no weights here$",
        ),
        (
            ":make",
            {"model_arg": {"width": 1}},
            r"^backbone '{}:make' with .* fails: make\(\) got an unexpected keyword",
        ),
        (":gone", {}, r"^backbone 'mypkg_backbones:gone': importing 'gone' from 'mypkg_backbones' fails: AttributeErr"),
        ("", {}, r"^backbone '{}': expected python:MODULE:FUNCTION, such as python:mypkg\.models:make_vit$"),
        (":make", {"image_size": [16]}, r"^backbone '{}:make' builds itself, with its weights and its image size; giv"),
        (":make", {"no_pretrained": True}, r"^backbone '{}:make' builds itself, with its weights and its image size;"),
        (":make", {"checkpoint": "a.pt"}, r"^backbone '{}:make' builds itself, with its weights and its image size; "),
    ],
)
def test_a_function_that_makes_none_is_refused(code: str, function: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("{}", re.escape(code))):
        load_backbone(code + function, **options)


def test_a_dry_run_names_no_published_weights(code: str, tiny_config: Callable[..., ExtractConfig]) -> None:
    lines = describe_extraction(tiny_config(model=f"{code}:make", model_arg={}, no_pretrained=False))
    assert not any("published" in line for line in lines)


def test_made_vit_of_the_kit_reads_as_a_module() -> None:
    """Its weights are large: the order of layers matters."""
    vit = made_vit()
    backbone = ModuleBackbone(vit, "blocks", image_size=16, prefix_names=["cls"], **GREY)
    expected = hooked(list(vit.blocks), vit, images())
    found = backbone.tokens(images(), [2, 0])
    assert torch.equal(found[0][0], expected[0][:, 1:])
    assert torch.equal(found[2][0], expected[2][:, 1:])
