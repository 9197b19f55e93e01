"""Weights in published form: from a small backbone, under the names of each training code."""

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from timm.models import Beit, VisionTransformer
from torch import Tensor, nn

from tokenprobe.extract.backbones import BackboneRequest
from tokenprobe.extract.backbones.from_timm import load_timm
from tokenprobe.extract.backbones.weights.loading import Reading

from ..kit import assert_weights, named

VIT: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2}
BEIT = VIT | {"use_abs_pos_emb": False, "use_shared_rel_pos_bias": True, "use_rel_pos_bias": False, "init_values": 0.1}
BEIT |= {"global_pool": "token"}


def other(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of another network with the same names: a student, an online encoder."""
    return {name: torch.full_like(tensor, 9.0) for name, tensor in weights.items()}


def named_decoder(*names: str) -> dict[str, Tensor]:
    return {name: torch.ones(2, 2) for name in names}


def mae(weights: dict[str, Tensor]) -> dict[str, Any]:
    decoder = named_decoder("mask_token", "decoder_pos_embed", "decoder_blocks.0.norm1.weight", "decoder_pred.bias")
    return {"model": weights | decoder, "optimizer": {"state": {}}, "epoch": 1599, "args": argparse.Namespace(lr=1.0)}


def simmim(weights: dict[str, Tensor]) -> dict[str, Any]:
    return {"model": named("encoder.", weights | named_decoder("mask_token")) | named_decoder("decoder.0.weight")}


def beit_v2(weights: dict[str, Tensor]) -> dict[str, Any]:
    return {"model": weights | named_decoder("mask_token", "lm_head.weight", "cls_pt_layers.0.norm1.weight")}


def maskfeat(weights: dict[str, Tensor]) -> dict[str, Any]:
    norm = {name: torch.full_like(weights[name], float("nan")) for name in ("norm.weight", "norm.bias")}
    return {"model_state": weights | norm | named_decoder("mask_token", "pred_head.projections.0.weight")}


def moco_v3(weights: dict[str, Tensor]) -> dict[str, Any]:
    momentum = named("module.momentum_encoder.", other(weights))
    heads = named_decoder("module.base_encoder.head.0.weight", "module.predictor.0.weight")
    return {"state_dict": momentum | named("module.base_encoder.", weights) | heads, "arch": "vit_base"}


def dino(weights: dict[str, Tensor]) -> dict[str, Any]:
    student = named("module.backbone.", other(weights)) | named_decoder("module.head.mlp.0.weight")
    teacher = named("backbone.", weights) | named_decoder("head.mlp.0.weight")
    return {"student": student, "teacher": teacher, "args": argparse.Namespace(arch="vit_base")}


def ibot(weights: dict[str, Tensor]) -> dict[str, Any]:
    return dino(weights) | {"teacher": named("backbone.", weights) | named_decoder("backbone.masked_embed")}


def ijepa(weights: dict[str, Tensor]) -> dict[str, Any]:
    predictor = {"module.predictor_embed.weight": torch.ones(2, 2)}
    encoders = {"encoder": named("module.", other(weights)), "target_encoder": named("module.", weights)}
    return encoders | {"predictor": predictor, "opt": {"lr": 1.0}, "epoch": 300}


def timm_style(weights: dict[str, Tensor]) -> dict[str, Any]:
    return {"state_dict": weights | named_decoder("head.weight"), "arch": "vit_base_patch16_224"}


PUBLISHED: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Any]], type[nn.Module], dict[str, Any]]] = {
    "MAE": (mae, VisionTransformer, VIT),
    "SimMIM": (simmim, Beit, BEIT),
    "BEiTv2": (beit_v2, Beit, BEIT),
    "MaskFeat": (maskfeat, VisionTransformer, VIT),
    "MoCo v3": (moco_v3, VisionTransformer, VIT),
    "iBOT": (ibot, VisionTransformer, VIT),
    "DINO": (dino, VisionTransformer, VIT),
    "I-JEPA": (ijepa, VisionTransformer, VIT | {"class_token": False, "global_pool": "avg", "fc_norm": False}),
    "timm": (timm_style, VisionTransformer, VIT),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_give_the_backbone_and_name_the_rest(name: str, tmp_path: Path) -> None:
    publish, architecture, arguments = PUBLISHED[name]
    model = architecture(num_classes=0, **arguments)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    torch.save(publish(weights), tmp_path / "a.pth")
    allowed = ["norm"] if name == "MaskFeat" else []
    request = BackboneRequest(
        name=architecture.__name__,
        arguments=arguments,
        checkpoint=tmp_path / "a.pth",
        pretrained=False,
        seed=0,
        reading=Reading(allow_missing=allowed),
    )
    backbone = load_timm(request)
    if allowed:
        weights |= {"norm.weight": torch.ones(12), "norm.bias": torch.zeros(12)}
    assert_weights(backbone.module.state_dict(), weights)
    report = backbone.loaded
    assert report is not None
    assert report.missing == (["norm.weight", "norm.bias"] if allowed else [])
    assert report.n_loaded == len(weights) - len(report.missing)
    assert report.resampled == []
    assert all(re.search("mask|decoder|head|momentum|predictor|cls_pt", left_out) for left_out in report.ignored)
    assert report.ignored


def test_a_torchvision_state_dict_gives_what_torchvision_computes(tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    backbone = load_timm(BackboneRequest("resnet18", {}, tmp_path / "a.pth", False, 0, (64, 64)))
    outputs: list[Tensor] = []
    theirs.layer4.register_forward_hook(lambda *seen: outputs.append(seen[2]))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs(images)
    patch, _ = backbone.tokens(images, [4])[4]
    # ours are convolved in another memory layout: eighteen layers rounded otherwise
    torch.testing.assert_close(patch, outputs[0].flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)
    assert backbone.loaded is not None
    assert backbone.loaded.ignored == ["fc.weight", "fc.bias"]
