"""Preprocessing of open_clip models without named weights: shared by all published weights, or an error."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg

from tokenprobe.errors import InputError
from tokenprobe.extract.backbones.open_clip_preprocessing import activation_note, preprocessing_of

from .kit import SMALL_CLIP, load_tower

FILE = Path("own.pt")
DECIDING = ("mean", "std", "interpolation", "resize_mode")
DISAGREE = ["ViT-L-14", "ViT-H-14", "ViT-H-14-quickgelu"]
TINY_TRUNK = {"timm_model_name": "vit_tiny_patch16_224"}


def published(architecture: str) -> list[dict[str, Any]]:
    """Return open_clip's own preprocessing for each of the published weights."""
    default = PreprocessCfg()
    found = []
    for tag in open_clip.list_pretrained_tags_by_model(architecture):
        values = open_clip.get_pretrained_cfg(architecture, tag)
        found.append({name: values.get(name) or getattr(default, name) for name in DECIDING})
    return found


def test_where_all_weights_agree_theirs_is_taken_and_else_one_must_be_named() -> None:
    n_agreeing = 0
    for architecture in open_clip.list_models():
        kinds = published(architecture)
        if any(kind != kinds[0] for kind in kinds):
            assert architecture in DISAGREE
            with pytest.raises(InputError, match=rf"^open_clip's weights of '{architecture}' differ in preprocessing"):
                preprocessing_of(architecture, "", FILE)
        elif kinds:
            found = preprocessing_of(architecture, "", FILE)
            assert {name: found[name] for name in DECIDING} == kinds[0]
            n_agreeing += 1
        else:
            assert preprocessing_of(architecture, "", FILE) == vars(PreprocessCfg())
    assert n_agreeing > 100


def test_the_error_says_what_to_write() -> None:
    message = (
        r"^open_clip's weights of 'ViT-L-14' differ in preprocessing \(openai, laion400m_e31, laion400m_e32, … by mean "
        r"0\.481, deviation 0\.269, bicubic, shortest; laion2b_s32b_b82k by mean 0\.5, deviation 0\.5, bicubic, "
        r"shortest\), and checkpoint 'own\.pt' does not state its own; name the weights that it matches, such as "
        r"open_clip:ViT-L-14/openai$"
    )
    with pytest.raises(InputError, match=message):
        preprocessing_of("ViT-L-14", "", FILE)


def test_a_tag_decides_and_drawn_weights_need_none() -> None:
    assert preprocessing_of("ViT-L-14", "laion2b_s32b_b82k", FILE)["mean"] == (0.5, 0.5, 0.5)
    assert preprocessing_of("ViT-L-14", "openai", FILE)["mean"][0] == pytest.approx(0.48145466)
    assert preprocessing_of("ViT-L-14", "", None) == vars(PreprocessCfg())


def test_weights_of_ones_own_get_the_preprocessing_of_the_architecture(tmp_path: Path) -> None:
    tower = load_tower("ViT-B-16-SigLIP", TINY_TRUNK, image_size=None).module
    torch.save(tower.state_dict(), tmp_path / "own.pt")
    for name in ("ViT-B-16-SigLIP", "ViT-B-16-SigLIP/webli"):
        transform = load_tower(name, TINY_TRUNK, image_size=None, checkpoint=tmp_path / "own.pt").transform
        assert (transform.mean, transform.std, transform.crop_mode) == ((0.5,) * 3, (0.5,) * 3, "squash")


def test_weights_of_a_tag_get_its_activation(tmp_path: Path) -> None:
    """QuickGELU is x · sigmoid(1.702 x); weights trained with it give another network with GELU."""
    tower = load_tower("ViT-B-32").module
    torch.save(tower.state_dict(), tmp_path / "own.pt")
    for name, quick in (("ViT-B-32", False), ("ViT-B-32/openai", True), ("ViT-B-32/laion2b_e16", False)):
        backbone = load_tower(name, checkpoint=tmp_path / "own.pt")
        activation = backbone.module.get_submodule("transformer.resblocks.0.mlp.gelu")
        x = torch.linspace(-3, 3, 7)
        expected = x * torch.sigmoid(1.702 * x) if quick else torch.nn.functional.gelu(x)
        torch.testing.assert_close(activation(x), expected)
        assert bool(backbone.notes) == (name == "ViT-B-32")
    own = load_tower("ViT-B-32/openai", SMALL_CLIP | {"quick_gelu": False}, checkpoint=tmp_path / "own.pt")
    assert isinstance(own.module.get_submodule("transformer.resblocks.0.mlp.gelu"), torch.nn.GELU)


def test_an_activation_that_weights_differ_in_is_told() -> None:
    assert activation_note("ViT-B-16", "") == [
        "activation GELU used, the default of ViT-B-16; for QuickGELU, the activation of openai, dfn2b, "
        "metaclip_400m, …, write open_clip:ViT-B-16/openai"
    ]
    assert activation_note("ViT-B-16", "openai") == activation_note("ViT-B-16-quickgelu", "") == []
    assert activation_note("ViT-B-16-SigLIP", "") == activation_note("ViT-S-16", "") == []
