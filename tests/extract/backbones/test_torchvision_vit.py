"""Weights of torchvision's VisionTransformer in timm's: the tokens equal torchvision's."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from tokenprobe.extract.backbones import BackboneRequest
from tokenprobe.extract.backbones.from_timm import load_timm
from tokenprobe.extract.backbones.torchvision_vit import renamed


def test_tokens_are_those_that_torchvision_computes(tmp_path: Path) -> None:
    theirs = VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=64).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    torch.save({"model": theirs.state_dict()}, tmp_path / "a.pth")
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    backbone = load_timm(BackboneRequest("vit_base_patch32_224", arguments, tmp_path / "a.pth", False, 0))
    outputs: list[Tensor] = []
    for block in theirs.encoder.layers:
        block.register_forward_hook(lambda *seen: outputs.append(seen[2]))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        theirs(images)
    for layer, (patch, prefix) in backbone.tokens(images, [0, 1]).items():
        assert prefix is not None
        torch.testing.assert_close(torch.cat([prefix, patch], 1), outputs[layer], rtol=1e-4, atol=1e-5)
    assert backbone.loaded is not None
    assert backbone.loaded.ignored == ["model.heads.head.weight", "model.heads.head.bias"]


def test_the_names_of_two_generations_are_known() -> None:
    marks = {"class_token": torch.zeros(1), "conv_proj.weight": torch.zeros(1)}
    block = "encoder.layers.encoder_layer_1.mlp."
    new, old = (renamed(marks | {block + f"{name}.bias": torch.zeros(1)}) for name in ("0", "linear_1"))
    assert list(new) == list(old) == ["cls_token", "patch_embed.proj.weight", "blocks.1.mlp.fc1.bias"]


def test_other_weights_are_left_as_they_are() -> None:
    weights = {"class_token": torch.zeros(1), "blocks.0.ln_1.weight": torch.zeros(1)}
    assert renamed(weights) is weights
