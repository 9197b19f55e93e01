"""open_clip's models: their preprocessing, weights and names, and the refusals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from tokenprobe.errors import InputError
from tokenprobe.extract.backbones import split_source
from tokenprobe.extract.backbones.from_open_clip import split_tag
from tokenprobe.extract.views import Pixels, normalise

from .kit import SMALL_CLIP, load_tower

SQUASHED = PreprocessCfg(mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode="squash")
BILINEAR = PreprocessCfg(mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bilinear")
TINY_TRUNK = {"timm_model_name": "vit_tiny_patch16_224"}


@pytest.mark.parametrize(
    ("name", "arguments", "size", "expected"),
    [
        ("ViT-B-32", SMALL_CLIP, (64, 64), PreprocessCfg()),
        ("ViT-B-32", SMALL_CLIP, (64, 96), PreprocessCfg()),
        ("ViT-B-16-SigLIP/webli", TINY_TRUNK, (64, 64), SQUASHED),
        ("ViT-B-16-SigLIP/webli", TINY_TRUNK, (64, 96), SQUASHED),
        ("MobileCLIP-S1/datacompdr", TINY_TRUNK, (64, 64), BILINEAR),
    ],
)
def test_view_0_is_open_clips_own_preprocessing(
    name: str, arguments: dict[str, Any], size: tuple[int, int], expected: PreprocessCfg
) -> None:
    transform = load_tower(name, arguments, image_size=size).transform
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8))
    ours = normalise(Pixels(transform)(image)[None], transform)[0]
    theirs = image_transform_v2(replace(expected, size=size), is_train=False)(image)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
VISION = {key: value for key, value in SMALL_CLIP.items() if key != "embed_dim"} | {"image_size": 64}


def made_clip(**changes: Any) -> Any:
    torch.manual_seed(5)
    return open_clip.CLIP(embed_dim=24, vision_cfg=VISION | changes, text_cfg=TEXT).eval()


@pytest.fixture
def local_clip(tmp_path: Path) -> tuple[Any, Path]:
    model, folder = made_clip(), tmp_path / "mine"
    folder.mkdir()
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    config = {"model_cfg": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}}
    config["preprocess_cfg"] = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return model, folder


def test_a_local_folder_gives_weights_and_preprocessing(local_clip: tuple[Any, Path]) -> None:
    model, folder = local_clip
    backbone = load_tower(f"local-dir:{folder}", {}, pretrained=True, image_size=None)
    found = backbone.module.state_dict()
    assert found.keys() == model.visual.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.visual.state_dict().items())
    assert backbone.name == "open_clip:local-dir:mine"
    assert (backbone.transform.mean, backbone.transform.crop_mode) == ((0.1, 0.2, 0.3), "squash")


def test_an_image_size_resamples_the_position_table(local_clip: tuple[Any, Path]) -> None:
    model, folder = local_clip
    table = model.visual.positional_embedding.detach()
    maps = table[1:].view(1, 4, 4, 32).permute(0, 3, 1, 2)
    resized = F.interpolate(maps, size=(6, 8), mode="bicubic", antialias=True).flatten(2)[0].T
    expected = torch.cat([table[:1], resized])
    torch.save(model.state_dict(), folder / "whole.pth")
    size = (96, 128)
    for backbone in (
        load_tower(f"local-dir:{folder}", {}, pretrained=True, image_size=size),
        load_tower("ViT-B-32", checkpoint=folder / "whole.pth", image_size=size),
    ):
        torch.testing.assert_close(backbone.module.positional_embedding.data, expected, rtol=1e-5, atol=1e-5)
        assert (backbone.transform.input_size, backbone.shapes[0].grid) == (size, (6, 8))
    assert backbone.loaded is not None
    assert backbone.loaded.resampled == ["positional_embedding"]


def test_a_checkpoint_of_a_whole_clip_gives_its_image_tower(tmp_path: Path) -> None:
    model = made_clip()
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "a.pt")
    backbone = load_tower("ViT-B-32", checkpoint=tmp_path / "a.pt")
    found = backbone.module.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.visual.state_dict().items())
    assert backbone.loaded is not None
    assert backbone.loaded.part == "state_dict.module.visual"
    n_text = len(model.state_dict()) - len(found)
    assert len(backbone.loaded.ignored) == n_text


def test_a_checkpoint_of_a_timm_trunk_goes_through_timms_conversion(tmp_path: Path) -> None:
    name, arguments = "ViT-B-16-SigLIP", {"timm_model_name": "vit_tiny_patch16_224"}
    tower: Any = load_tower(name, arguments, seed=3, image_size=None).module
    torch.save({f"visual.{key}": tensor for key, tensor in tower.state_dict().items()}, tmp_path / "a.pt")
    backbone = load_tower(name, arguments, checkpoint=tmp_path / "a.pt", image_size=None)
    module: Any = backbone.module
    assert torch.equal(module.trunk.pos_embed, tower.trunk.pos_embed)
    smaller: Any = load_tower(name, arguments, checkpoint=tmp_path / "a.pt").module
    maps = tower.trunk.pos_embed[:, 1:].view(1, 14, 14, 192).permute(0, 3, 1, 2)
    resized = F.interpolate(maps, size=(4, 4), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(smaller.trunk.pos_embed.data[:, 1:], resized, rtol=1e-5, atol=1e-5)


def test_a_table_that_is_no_square_does_not_fit(tmp_path: Path) -> None:
    weights = made_clip().visual.state_dict() | {"positional_embedding": torch.zeros(12, 32)}
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"'positional_embedding' of checkpoint '.*a\.pt' has 11 positions, neither "):
        load_tower("ViT-B-32", checkpoint=tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ViT-B-33", {}, r"^unknown open_clip model 'ViT-B-33'; known: ViT-B-32, "),
        ("ViT-B-32/opnai", {}, r"^unknown weights of open_clip model 'ViT-B-32' 'opnai'; known: openai, "),
        (
            "ViT-B-32",
            {"pretrained": True},
            r"^open_clip model 'ViT-B-32' needs the name of its weights; write open_clip:ViT-B-32/WEIGHTS "
            r"\(known: openai, .*\), or give --checkpoint or --no-pretrained$",
        ),
        (
            "local-dir:/x/mine",
            {},
            r"^open_clip model 'local-dir:/x/mine' has its own weights; with --checkpoint or --no-pretrained, name ",
        ),
        (
            "local-dir:/x/mine",
            {"pretrained": True},
            r"^open_clip model 'local-dir:/x/mine' cannot be built or its weights cannot be downloaded \(.+\); check ",
        ),
    ],
)
def test_names_that_lead_nowhere(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_tower(name, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wdith": 32}, r"^open_clip model 'ViT-B-32' does not take \{'wdith': 32\}: .*'wdith'"),
        (SMALL_CLIP | {"head_width": 64}, r"^open_clip model 'ViT-B-32' cannot be built or "),
        (
            SMALL_CLIP | {"patch_size": 128},
            r"^open_clip model 'ViT-B-32' .* fails on images of ",
        ),
    ],
)
def test_arguments_the_tower_cannot_take_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_tower("ViT-B-32", arguments)


def test_an_image_size_a_trunk_cannot_take_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"^open_clip model 'ViT-B-16-SigLIP' .* fails on images of \(8, 8\) pixels: "):
        load_tower("ViT-B-16-SigLIP", TINY_TRUNK, image_size=(8, 8))


def test_a_way_to_resize_that_is_not_known_is_named(local_clip: tuple[Any, Path]) -> None:
    _, folder = local_clip
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["resize_mode"] = "longest"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"resizes images by 'longest'; known: shortest, squash$"):
        load_tower(f"local-dir:{folder}", {}, pretrained=True)


def test_an_unreachable_hub_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("ViT-B-32/laion2b_s34b_b79k", "hf-hub:org/none"):
        with pytest.raises(InputError, match=rf"^open_clip model '{name}' cannot be built or its weights cannot be "):
            load_tower(name, {}, pretrained=True)
    assert capsys.readouterr().err == "", "open_clip's own log would say it again"


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
