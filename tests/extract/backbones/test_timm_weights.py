"""Files with names of other training codes: the loaded weights equal timm's own conversion, at any image size."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from torch import Tensor, nn

from tokenprobe.extract.backbones.weights.position_tables import PositionTable

from .kit import TINY_BLOCKS, load

State = dict[str, Tensor]
BLOCKS = TINY_BLOCKS | {"patch_size": 8}


def renamed(state: State, *rules: tuple[str, str]) -> State:
    found = {}
    for name, tensor in state.items():
        for pattern, other in rules:
            name = re.sub(pattern, other, name)
        found[name] = tensor
    return found


def clip(state: State) -> State:
    torch.manual_seed(5)
    vision = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 64}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    return open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text).state_dict()


def clip_of_a_trunk(state: State) -> State:
    return {f"visual.trunk.{name}": tensor for name, tensor in state.items()} | {
        "text.x": torch.ones(2),
        "logit": torch.ones(1),
    }


def dinov2_with_registers(state: State) -> State:
    """The file has a position for the class token. timm adds it to the token, since its own table has none."""
    position = torch.randn(1, 1, 16)
    others = renamed({n: t for n, t in state.items() if n != "pos_embed"}, ("reg_token", "register_tokens"))
    return others | {
        "cls_token": state["cls_token"] - position[:, 0:1],
        "pos_embed": torch.cat([position, state["pos_embed"]], 1),
        "mask_token": torch.ones(1, 16),
    }


def aimv2(state: State) -> State:
    rules = (
        (r"^patch_embed\.", "preprocessor.patchifier."),
        (r"^pos_embed", "preprocessor.pos_embed"),
        (r"^norm\.", "trunk.post_trunk_norm."),
        (r"^blocks\.", "trunk.blocks."),
        (r"\.norm([12])\.", r".norm_\1."),
        (r"mlp\.fc1_g", "mlp.fc1"),
        (r"mlp\.fc1_x", "mlp.fc3"),
    )
    return renamed(state, *rules)


def radio(state: State) -> State:
    """RADIO has tables of one size, larger than any image needs, and a linear layer for patches."""
    prefix = "radio_model.model."
    blocks = {prefix + name: tensor for name, tensor in state.items() if name.startswith("blocks.")}
    generator = f"{prefix}patch_generator."
    return blocks | {
        f"{generator}embedder.weight": state["patch_embed.proj.weight"].flatten(1),
        f"{generator}pos_embed": torch.randn(1, 256, 16),
        f"{generator}cls_token.token": torch.cat([state["cls_token"], state["reg_token"]], 1)[0],
        "radio_model.input_conditioner.norm_mean": torch.zeros(3, 1, 1),
    }


CODES: dict[str, tuple[str, Callable[[State], State]]] = {
    "CLIP": ("vit_base_patch16_clip_224", clip),
    "CLIP of a trunk": ("vit_base_patch16_siglip_224", clip_of_a_trunk),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", dinov2_with_registers),
    "AIMv2": ("aimv2_large_patch14_224", aimv2),
    "RADIO": ("vit_base_patch16_radio_v3", radio),
}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("wrapper", ["", "state_dict", "state_dict.module"])
@pytest.mark.parametrize(("size", "grid"), [((64, 64), (8, 8)), ((64, 96), (8, 12)), ((32, 64), (4, 8))])
def test_a_file_of_another_code_gives_what_timm_makes_of_it(
    code: str, wrapper: str, size: tuple[int, int], grid: tuple[int, int], tmp_path: Path
) -> None:
    name, originals = CODES[code]
    torch.manual_seed(1)
    model = timm.create_model(name, num_classes=0, img_size=64, **BLOCKS)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    given = originals(model.state_dict())
    torch.save(given, tmp_path / "model.bin")
    cfg = {
        "architecture": name,
        "num_classes": 0,
        "pretrained_cfg": {"input_size": [3, 64, 64], "file": str(tmp_path / "model.bin")},
    }
    (tmp_path / "config.json").write_text(json.dumps(cfg))
    n_classes = 16 if code == "CLIP" else 0  # its projection is timm's classifier
    theirs = timm.create_model(
        f"local-dir:{tmp_path}", pretrained=True, img_size=size, num_classes=n_classes, **BLOCKS
    ).state_dict()
    theirs = {key: tensor for key, tensor in theirs.items() if not key.startswith("head.")}

    prefix = "".join(f"{part}." for part in wrapper.split(".") if part)
    content: Any = {prefix.partition(".")[2] + key: tensor for key, tensor in given.items()}
    torch.save({wrapper.partition(".")[0]: content} if wrapper else content, tmp_path / "a.pth")
    backbone = load(name, BLOCKS, checkpoint=tmp_path / "a.pth", image_size=size)
    ours = backbone.module.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())
    assert backbone.loaded is not None
    before = "16 × 16" if code == "RADIO" else "8 × 8"
    assert list(backbone.loaded.tables)[:1] == [PositionTable("pos_embed", before, f"{grid[0]} × {grid[1]}")]
