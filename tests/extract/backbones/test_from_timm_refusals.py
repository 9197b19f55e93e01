"""Requests for timm models, weights and arguments that do not exist."""

import contextlib
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch

from tokenprobe.errors import InputError

from ...conftest import TINY_VIT
from .kit import load


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
        load(arguments=TINY_VIT | change)


def test_a_model_without_intermediate_outputs_is_refused() -> None:
    message = (
        r"^timm model 'resnet10t' does not return its blocks' outputs: it has no forward_intermediates, and its feature"
    )
    with pytest.raises(InputError, match=message):
        load("resnet10t", {"features_only": True})


@pytest.mark.parametrize("name", ["tnt_s_legacy_patch16_224", "naflexvit_base_patch16_gap"])
def test_a_model_without_a_patch_grid_is_refused_or_gives_its_tokens(name: str) -> None:
    """The user reads one line, not an AttributeError."""
    assert timm.is_model(name)
    with contextlib.suppress(InputError):
        backbone = load(name, {"depth": 1})
        patch, _ = backbone.tokens(torch.zeros(1, 3, *backbone.transform.input_size), [0])[0]
        assert patch.shape[1:] == (backbone.shapes[0].n_patches, backbone.shapes[0].dim)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Cut off the hub, and empty its cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "hf-hub:tokenprobe/no-such-model"])
def test_an_unreachable_hub_offers_the_way_out(name: str) -> None:
    message = (
        rf"^the weights of timm model '{name}' could not be downloaded \(.+\); "
        "give a local file with --checkpoint, or --no-pretrained$"
    )
    with pytest.raises(InputError, match=message):
        load(name, {}, pretrained=True)


def test_a_local_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the weights of timm model 'local-dir:.*none' could not be downloaded"):
        load(f"local-dir:{tmp_path}/none", {}, pretrained=True)
