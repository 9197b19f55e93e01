"""open_clip's image towers: tokens against hooks on their blocks, and the way from them to the library's embedding."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn

from tokenprobe.errors import InputError
from tokenprobe.extract import ExtractConfig, extract
from tokenprobe.extract.backbones import BackboneRequest, split_source
from tokenprobe.extract.backbones.from_open_clip import load_open_clip, split_tag
from tokenprobe.extract.backbones.open_clip_tower import OpenClipBackbone
from tokenprobe.extract.views import Pixels, normalise
from tokenprobe.probe import FitConfig, fit, load_head
from tokenprobe.store import open_store
from tokenprobe.store.verify import verify

SMALL: dict[str, Any] = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "embed_dim": 24}
POOLER = {"attn_pooler_heads": 2, "attn_pooler_queries": 4}
OF_BLOCKS = [(4, 4), (4, 4)]
PYRAMID = [(16, 16), (8, 8), (4, 4), (2, 2)]


class Tower(NamedTuple):
    """An image tower made small: its blocks, grids of its layers, its prefix, and how tokens lead to its embedding."""

    name: str
    arguments: dict[str, Any]
    blocks: str
    grids: list[tuple[int, int]]
    prefix: list[str]
    embed: Callable[[OpenClipBackbone, Tensor], Tensor]


def of_class_token(backbone: OpenClipBackbone, last: Tensor) -> Tensor:
    return normed(last, backbone)[:, 0] @ backbone.module.proj


def of_mean(backbone: OpenClipBackbone, last: Tensor) -> Tensor:
    return normed(last[:, 1:].mean(1), backbone) @ backbone.module.proj


def of_attention_pooling(backbone: OpenClipBackbone, last: Tensor) -> Tensor:
    tower: Any = backbone.module
    assert backbone.final_norm() is None
    return tower.ln_post(tower.attn_pool(last))[:, 0] @ tower.proj


def of_trunk(backbone: OpenClipBackbone, last: Tensor) -> Tensor:
    tower: Any = backbone.module
    norms_tokens = not isinstance(tower.trunk.norm, nn.Identity)  # else the pooled token, in its head
    return tower.head(tower.trunk.forward_head(normed(last, backbone) if norms_tokens else last))


def of_convolutional_trunk(backbone: OpenClipBackbone, last: Tensor) -> Tensor:
    tower: Any = backbone.module
    return tower.head(tower.trunk.forward_head(last.transpose(1, 2).unflatten(2, (2, 2))))


def of_fastvit(backbone: OpenClipBackbone, last: Tensor) -> Tensor:
    tower: Any = backbone.module
    return tower.head(tower.trunk.forward_head(tower.trunk.final_conv(last.transpose(1, 2).unflatten(2, (2, 2)))))


def of_resnet(backbone: OpenClipBackbone, last: Tensor) -> Tensor:
    return backbone.module.attnpool(last.transpose(1, 2).unflatten(2, (2, 2)))


def normed(tokens: Tensor, backbone: OpenClipBackbone) -> Tensor:
    norm = backbone.final_norm()
    assert norm is not None
    weight, bias = torch.tensor(norm["weight"]), torch.tensor(norm["bias"])
    return F.layer_norm(tokens, tokens.shape[-1:], weight, bias, norm["eps"])


def native(name: str, embed: Callable[[OpenClipBackbone, Tensor], Tensor], **changes: Any) -> Tower:
    return Tower(name, SMALL | changes, "transformer.resblocks", OF_BLOCKS, ["cls"], embed)


def trunk(name: str, timm_name: str, prefix: list[str], grids: list[tuple[int, int]] | None = None) -> Tower:
    arguments = {"timm_model_name": timm_name, "embed_dim": 24}
    return Tower(name, arguments, "trunk.blocks", grids or [(4, 4)] * 12, prefix, of_trunk)


RESNET = {"layers": (1, 1, 1, 1), "width": 8, "head_width": 64, "embed_dim": 24}
TOWERS = [
    native("ViT-B-32", of_class_token),
    native("ViT-B-32-quickgelu", of_class_token),
    native("ViT-L-14-336", of_class_token),
    native("ViT-L-14-CLIPA", of_mean),
    native("coca_base", of_class_token),
    native("coca_ViT-B-32", of_attention_pooling, **POOLER),
    Tower("RN50", RESNET, "avgpool layer1 layer2 layer3 layer4", [(16, 16), *PYRAMID], [], of_resnet),
    trunk("ViT-B-16-SigLIP", "vit_wee_patch16_reg1_gap_256", ["reg0"], [(4, 4)] * 14),
    trunk("vit_relpos_medium_patch16_cls_224", "vit_relpos_small_patch16_224", []),
    trunk("EVA02-B-16", "eva02_tiny_patch14_224", ["cls"]),
    trunk("PE-Core-T-16-384", "vit_pe_core_tiny_patch16_384", ["cls"]),
    Tower(
        "convnext_base_w",
        {"timm_model_name": "convnext_atto", "embed_dim": 24},
        "trunk.stages",
        PYRAMID,
        [],
        of_convolutional_trunk,
    ),
    Tower(
        "MobileCLIP2-S0", {"timm_model_name": "fastvit_t8", "embed_dim": 24}, "trunk.stages", PYRAMID, [], of_fastvit
    ),
]


def load(name: str, arguments: dict[str, Any] | None = None, **changes: Any) -> OpenClipBackbone:
    fields: dict[str, Any] = {"checkpoint": None, "pretrained": False, "seed": 0, "image_size": (64, 64)}
    return load_open_clip(BackboneRequest(name, SMALL if arguments is None else arguments, **fields | changes))


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def block_outputs(tower: nn.Module, blocks: str) -> tuple[list[Tensor], Tensor]:
    """Return each block's output as (B, N, D), prefix included, and the tower's embedding."""
    outputs: list[Tensor] = []
    named = tower.get_submodule(blocks) if " " not in blocks else [tower.get_submodule(n) for n in blocks.split()]
    handles = [block.register_forward_hook(lambda *seen: outputs.append(seen[2])) for block in named]
    with torch.no_grad():
        embedding = tower(images())
    for handle in handles:
        handle.remove()
    embedding = embedding[0] if isinstance(embedding, tuple) else embedding  # CoCa gives tokens too
    return [x.flatten(2).transpose(1, 2) if x.ndim == 4 else x for x in outputs], embedding


@pytest.mark.parametrize("tower", TOWERS, ids=lambda tower: tower.name)
def test_tokens_are_the_outputs_of_the_blocks_and_lead_to_the_embedding(tower: Tower) -> None:
    backbone = load(tower.name, tower.arguments)
    for parameter in backbone.module.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 1.0, 0.2)  # norms that do nothing would prove nothing
    assert backbone.prefix_names == tower.prefix
    assert [shape.grid for shape in backbone.shapes] == tower.grids
    expected, embedding = block_outputs(backbone.module, tower.blocks)
    tokens = backbone.tokens(images(), range(len(backbone.shapes)))
    assert len(expected) == len(tokens)
    n_prefix = len(tower.prefix)
    for layer, rows in enumerate(expected):
        patch, prefix = tokens[layer]
        shape = backbone.shapes[layer]
        assert (patch.shape[1:], shape.n_prefix) == ((shape.n_patches, shape.dim), n_prefix)
        torch.testing.assert_close(patch, rows[:, n_prefix:])
        if prefix is None:
            assert n_prefix == 0
        else:
            torch.testing.assert_close(prefix, rows[:, :n_prefix])
    patch, prefix = tokens[len(expected) - 1]
    last = patch if prefix is None else torch.cat([prefix, patch], 1)
    with torch.no_grad():
        torch.testing.assert_close(tower.embed(backbone, last), embedding, rtol=1e-4, atol=1e-4)
    with_embedding, found = backbone.tokens_and_embedding(images(), [0, len(expected) - 1])
    torch.testing.assert_close(found, embedding)
    torch.testing.assert_close(with_embedding[len(expected) - 1][0], patch)
    assert [shape.embedding for shape in backbone.shapes] == [0] * (len(expected) - 1) + [embedding.shape[1]]
    assert backbone.tokens_and_embedding(images(), [0])[1] is None


def test_any_choice_of_layers_gives_the_same_tokens() -> None:
    backbone = load("ViT-B-32")
    everything = backbone.tokens(images(), [0, 1])
    (alone,) = backbone.tokens(images(), [0]).values()
    assert torch.equal(alone[0], everything[0][0])


def test_the_seed_decides_drawn_weights_and_the_tower_is_frozen() -> None:
    state = torch.random.get_rng_state()
    first = load("ViT-B-32", seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert load("ViT-B-32", seed=0).weights_hash() == first.weights_hash() != load("ViT-B-32", seed=1).weights_hash()
    assert not any(part.training for part in first.module.modules())
    assert not any(parameter.requires_grad for parameter in first.module.parameters())


# --- preprocessing ------------------------------------------------------------------------------------------


SQUASHED = PreprocessCfg(mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode="squash")
BILINEAR = PreprocessCfg(mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bilinear")
TINY_TRUNK = {"timm_model_name": "vit_tiny_patch16_224"}


@pytest.mark.parametrize(
    ("name", "arguments", "size", "expected"),
    [
        ("ViT-B-32", SMALL, (64, 64), PreprocessCfg()),
        ("ViT-B-32", SMALL, (64, 96), PreprocessCfg()),
        ("ViT-B-16-SigLIP/webli", TINY_TRUNK, (64, 64), SQUASHED),
        ("ViT-B-16-SigLIP/webli", TINY_TRUNK, (64, 96), SQUASHED),
        ("MobileCLIP-S1/datacompdr", TINY_TRUNK, (64, 64), BILINEAR),
    ],
)
def test_view_0_is_open_clips_own_preprocessing(
    name: str, arguments: dict[str, Any], size: tuple[int, int], expected: PreprocessCfg
) -> None:
    transform = load(name, arguments, image_size=size).transform
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8))
    ours = normalise(Pixels(transform)(image)[None], transform)[0]
    theirs = image_transform_v2(replace(expected, size=size), is_train=False)(image)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


# --- the embedding in the store ---------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["a.zarr", "a.h5"])
def test_the_last_layer_of_a_store_has_the_embedding_too(
    store: str, tiny_config: Callable[..., ExtractConfig], image_folder: Path, tmp_path: Path
) -> None:
    config = tiny_config(model="ViT-B-32", model_arg=SMALL, image_size=[32], out=tmp_path / store, dtype="float16")
    assert verify(extract(config)) == []
    split = open_store(tmp_path / store)["test"]
    assert (split.shape(0).embedding, split.shape(1).embedding) == (0, 24)
    assert not split.has(0, "embedding")
    found = split.tokens(1, kind="embedding")
    assert (found.shape, found.dtype) == ((24, 24), np.float32)
    np.testing.assert_allclose(found, embedded(split.ids, image_folder).numpy(), rtol=1e-4, atol=1e-5)


def embedded(ids: Sequence[str], image_folder: Path) -> Tensor:
    """Return the tower's own embedding of test images."""
    backbone = load("ViT-B-32", image_size=(32, 32))
    pixels = Pixels(backbone.transform)
    rows = torch.stack([pixels(Image.open(image_folder / "test" / key)) for key in ids])
    with torch.no_grad():
        return backbone.module(normalise(rows, backbone.transform))


def test_heads_are_fitted_to_it(tiny_config: Callable[..., ExtractConfig], image_folder: Path, tmp_path: Path) -> None:
    extract(tiny_config(model="ViT-B-32", model_arg=SMALL, image_size=[32], out=tmp_path / "a.zarr"))
    heads = ["linear:pool=embedding", "linear:pool=cls", "ridge:pool=embedding"]
    config = FitConfig(out=tmp_path / "run", heads=heads, layers="-1", lr=[10.0], epochs=5, norm="final", device="cpu")
    results = fit(tmp_path / "a.zarr", config).results
    split = open_store(tmp_path / "a.zarr")["test"]
    embedding = embedded(split.ids, image_folder)
    for row in results[results["tokens"] == "embedding"].itertuples():
        guesses = load_head(tmp_path / "run", row.cell)(embedding[:, None]).argmax(1)
        assert row.test_top1 == pytest.approx((guesses.numpy() == split.labels).mean(), abs=1e-9)
        assert row.n_params == 24 * 3 + 3
    assert set(results["head"]) == {"linear", "ridge"} and results["test_top1"].max() > 0.5


def test_a_layer_before_the_last_alone_has_none(tiny_config: Callable[..., ExtractConfig], tmp_path: Path) -> None:
    config = tiny_config(model="ViT-B-32", model_arg=SMALL, image_size=[32], out=tmp_path / "a.zarr")
    extract(replace(config, layers="0"))
    extract(replace(config, layers="-1"))
    split = open_store(tmp_path / "a.zarr")["train"]
    assert [split.has(layer, "embedding") for layer in (0, 1)] == [False, True]


# --- weights ------------------------------------------------------------------------------------------------

TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
VISION = {key: value for key, value in SMALL.items() if key != "embed_dim"} | {"image_size": 64}


def made_clip(**changes: Any) -> nn.Module:
    torch.manual_seed(5)
    return open_clip.CLIP(embed_dim=24, vision_cfg=VISION | changes, text_cfg=TEXT).eval()


@pytest.fixture
def local_clip(tmp_path: Path) -> tuple[nn.Module, Path]:
    model, folder = made_clip(), tmp_path / "mine"
    folder.mkdir()
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    config = {"model_cfg": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}}
    config["preprocess_cfg"] = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return model, folder


def test_a_local_folder_gives_weights_and_preprocessing(local_clip: tuple[nn.Module, Path]) -> None:
    model, folder = local_clip
    backbone = load(f"local-dir:{folder}", {}, pretrained=True, image_size=None)
    found = backbone.module.state_dict()
    assert found.keys() == model.visual.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.visual.state_dict().items())
    assert backbone.name == "open_clip:local-dir:mine"
    assert (backbone.transform.mean, backbone.transform.crop_mode) == ((0.1, 0.2, 0.3), "squash")


def test_an_image_size_resamples_the_position_table(local_clip: tuple[nn.Module, Path]) -> None:
    model, folder = local_clip
    table = model.visual.positional_embedding.detach()
    maps = table[1:].view(1, 4, 4, 32).permute(0, 3, 1, 2)
    resized = F.interpolate(maps, size=(6, 8), mode="bicubic", antialias=True).flatten(2)[0].T
    expected = torch.cat([table[:1], resized])
    torch.save(model.state_dict(), folder / "whole.pth")
    size = (96, 128)
    for backbone in (
        load(f"local-dir:{folder}", {}, pretrained=True, image_size=size),
        load("ViT-B-32", checkpoint=folder / "whole.pth", image_size=size),
    ):
        torch.testing.assert_close(backbone.module.positional_embedding.data, expected, rtol=1e-5, atol=1e-5)
        assert (backbone.transform.input_size, backbone.shapes[0].grid) == (size, (6, 8))
    assert backbone.loaded is not None
    assert backbone.loaded.resampled == ["positional_embedding"]


def test_a_checkpoint_of_a_whole_clip_gives_its_image_tower(tmp_path: Path) -> None:
    model = made_clip()
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "a.pt")
    backbone = load("ViT-B-32", checkpoint=tmp_path / "a.pt")
    found = backbone.module.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.visual.state_dict().items())
    assert backbone.loaded is not None
    assert backbone.loaded.part == "state_dict: module.visual."
    n_text = len(model.state_dict()) - len(found)
    assert len(backbone.loaded.ignored) == n_text


def test_a_checkpoint_of_a_timm_trunk_goes_through_timms_conversion(tmp_path: Path) -> None:
    name, arguments = "ViT-B-16-SigLIP", {"timm_model_name": "vit_tiny_patch16_224"}
    tower = load(name, arguments, seed=3, image_size=None).module
    torch.save({f"visual.{key}": tensor for key, tensor in tower.state_dict().items()}, tmp_path / "a.pt")
    backbone = load(name, arguments, checkpoint=tmp_path / "a.pt", image_size=None)
    assert torch.equal(backbone.module.trunk.pos_embed, tower.trunk.pos_embed)
    smaller = load(name, arguments, checkpoint=tmp_path / "a.pt")
    maps = tower.trunk.pos_embed[:, 1:].view(1, 14, 14, 192).permute(0, 3, 1, 2)
    resized = F.interpolate(maps, size=(4, 4), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(smaller.module.trunk.pos_embed.data[:, 1:], resized, rtol=1e-5, atol=1e-5)


def test_a_table_that_is_no_square_does_not_fit(tmp_path: Path) -> None:
    weights = made_clip().visual.state_dict() | {"positional_embedding": torch.zeros(12, 32)}
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt' does not fit: RuntimeError .*; check --model and --model-arg$"):
        load("ViT-B-32", checkpoint=tmp_path / "a.pt")


# --- what cannot be had -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ViT-B-33", {}, r"^unknown open_clip model 'ViT-B-33'; known: ViT-B-32, "),
        ("ViT-B-32/opnai", {}, r"^unknown weights of open_clip model 'ViT-B-32' 'opnai'; known: openai, "),
        (
            "ViT-B-32",
            {"pretrained": True},
            r"^open_clip model 'ViT-B-32' without the name of its weights; write open_clip:ViT-B-32/WEIGHTS "
            r"\(known: openai, .*\), or give --checkpoint or --no-pretrained$",
        ),
        (
            "local-dir:/x/mine",
            {},
            r"^open_clip model 'local-dir:/x/mine' brings its own weights; with --checkpoint or --no-pretrained name ",
        ),
        (
            "local-dir:/x/mine",
            {"pretrained": True},
            r"^open_clip model 'local-dir:/x/mine' cannot be built, or its weights not fetched \(.+\); check ",
        ),
    ],
)
def test_names_that_lead_nowhere(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(name, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wdith": 32}, r"^open_clip model 'ViT-B-32' does not take \{'wdith': 32\}: .*'wdith'"),
        (SMALL | {"head_width": 64}, r"^open_clip model 'ViT-B-32' cannot be built, "),
        (SMALL | {"patch_size": 128}, r"^open_clip model 'ViT-B-32' .* cannot give its blocks' tokens for images of "),
    ],
)
def test_arguments_the_tower_cannot_take_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load("ViT-B-32", arguments)


def test_an_image_size_a_trunk_cannot_take_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"^open_clip model 'ViT-B-16-SigLIP' .* for images of \(8, 8\) pixels: "):
        load("ViT-B-16-SigLIP", TINY_TRUNK, image_size=(8, 8))


def test_a_way_to_resize_that_is_not_known_is_named(local_clip: tuple[nn.Module, Path]) -> None:
    _, folder = local_clip
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["resize_mode"] = "longest"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"wants its images resized by 'longest'; known: shortest, squash$"):
        load(f"local-dir:{folder}", {}, pretrained=True)


def test_an_unreachable_hub_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("ViT-B-32/laion2b_s34b_b79k", "hf-hub:org/none"):
        with pytest.raises(InputError, match=rf"^open_clip model '{name}' cannot be built, or its weights not fetched"):
            load(name, {}, pretrained=True)
    assert capsys.readouterr().err == "", "open_clip's own log would say it again"


def test_without_open_clip_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(
        InputError, match=r"need the package open_clip_torch .*; pip install 'tokenprobe\[open_clip\]'$"
    ):
        load("ViT-B-32")
    assert split_source("vit_tiny_patch16_224") == ("timm", "vit_tiny_patch16_224")
    with pytest.raises(InputError, match=r"^unknown backbone source 'ViT-B-32'; known: timm, open_clip"):
        split_source("ViT-B-32:openai")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("open_clip:ViT-B-32/openai", ("open_clip", "ViT-B-32/openai")),
        ("open_clip:hf-hub:org/name", ("open_clip", "hf-hub:org/name")),
        ("ViT-B-32:openai", ("open_clip", "ViT-B-32:openai")),
        ("ViT-B-32", ("open_clip", "ViT-B-32")),
        ("convnext_base", ("timm", "convnext_base")),
    ],
)
def test_a_bare_name_is_looked_up_in_timm_then_in_open_clip(model: str, expected: tuple[str, str]) -> None:
    assert split_source(model) == expected


def test_a_name_is_an_architecture_and_a_tag() -> None:
    assert split_tag("ViT-B-32/openai") == split_tag("ViT-B-32:openai") == ("ViT-B-32", "openai")
    assert split_tag("ViT-B-32") == ("ViT-B-32", "")
