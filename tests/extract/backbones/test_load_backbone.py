"""Backbones by name: rules for every source."""

import json
from pathlib import Path

import pytest
import timm
import torch

from tokenprobe.errors import InputError
from tokenprobe.extract.backbones import load_backbone

from .kit import TINY_BLOCKS

HUB = Path(__file__).parents[2] / "data" / "hub"
SMALL = TINY_BLOCKS | {"img_size": 32}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_published_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    """The libraries load such weights silently."""
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **SMALL)
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": SMALL}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": {"input_size": [3, 32, 32]}}))
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    name = f"timm:local-dir:{tmp_path}"
    assert load_backbone(name).shapes[0].grid == (4, 4)
    broken = model.state_dict()
    broken["blocks.1.mlp.fc2.bias"][3] = value
    torch.save(broken, tmp_path / "pytorch_model.bin")
    message = (
        rf"^backbone '{name}' has weights that are not finite, such as 'blocks\.1\.mlp\.fc2\.bias'; use other weig"
    )
    with pytest.raises(InputError, match=message):
        load_backbone(name)


def test_a_checkpoint_is_read_as_it_is_asked_for_from_every_source(tmp_path: Path) -> None:
    for model, arguments in (("timm:VisionTransformer", SMALL), (f"hub:{HUB}/dinov2_tiny", {})):
        backbones = [load_backbone(model, model_arg=arguments, no_pretrained=True, seed=seed) for seed in (1, 2)]
        sets = {key: each.module.state_dict() for key, each in zip(("net", "net_ema"), backbones, strict=True)}
        torch.save(sets, tmp_path / "a.pth")
        for key, expected in ((None, backbones[1]), ("net", backbones[0]), ("net_ema", backbones[1])):
            found = load_backbone(model, model_arg=arguments, checkpoint=tmp_path / "a.pth", checkpoint_key=key)
            assert found.weights_hash() == expected.weights_hash()
