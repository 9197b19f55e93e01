"""Published weights at another image size: the grid of every table is known, so every table is resampled and reported.

The weights lie in local folders, as those of a hub do once they are fetched.
"""

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenprobe.errors import InputError

from .kit import TINY_BLOCKS, load, load_tower, pretrained_cfg

Size = tuple[int, int]
TEXT = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
VISION = {"layers": 2, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 48}
TALL_AND_WIDE = [(32, 72), (72, 32), (24, 96)]
"""The same number of patches as 48 × 48 pixels."""


def published(folder: Path, name: str, cfg_size: int = 48, **arguments: Any) -> Any:
    """Save a timm model for 48 × 48 pixels in the form of a published one."""
    torch.manual_seed(1)
    model = timm.create_model(name, num_classes=0, img_size=48, **arguments)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    config = {"architecture": name, "num_classes": 0, "model_args": arguments | {"img_size": 48}}
    cfg = {"input_size": [3, cfg_size, cfg_size], "num_classes": 0}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": cfg}))
    return model


def resampled(table: Tensor, size: Size, n_prefix: int) -> Tensor:
    maps = table[:, n_prefix:].view(1, 6, 6, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(maps, size=(size[0] // 8, size[1] // 8), mode="bicubic", antialias=True)
    return torch.cat([table[:, :n_prefix], resized.flatten(2).transpose(1, 2)], 1)


BLOCKS = TINY_BLOCKS | {"patch_size": 8}
MODELS = {
    "vit_tiny_patch16_224": (BLOCKS, 1),
    "vit_small_patch14_reg4_dinov2": (BLOCKS, 0),
    "eva02_tiny_patch14_224": (BLOCKS, 1),
    "deit_tiny_distilled_patch16_224": (BLOCKS, 2),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [*TALL_AND_WIDE, (64, 64), (32, 64)])
@pytest.mark.parametrize("by_argument", [False, True])
def test_a_table_comes_to_the_grid_of_the_images(name: str, size: Size, by_argument: bool, tmp_path: Path) -> None:
    arguments, n_prefix = MODELS[name]
    theirs = published(tmp_path, name, **arguments)
    given: dict[str, Any] = {"arguments": {"img_size": size}} if by_argument else {"arguments": {}, "image_size": size}
    backbone = load(f"local-dir:{tmp_path}", pretrained=True, **given)
    expected = resampled(theirs.pos_embed.detach(), size, n_prefix)
    torch.testing.assert_close(backbone.module.pos_embed.data, expected, rtol=1e-5, atol=1e-5)
    assert backbone.notes == [f"position table of 6 × 6 resampled to {size[0] // 8} × {size[1] // 8}: pos_embed"]


@pytest.mark.parametrize("by_argument", [False, True])
def test_a_configuration_with_a_wrong_size_does_not_mislead(by_argument: bool, tmp_path: Path) -> None:
    """timm takes the grid of a table from there, if the count agrees, and else leaves it as it is."""
    theirs = published(tmp_path, "vit_tiny_patch16_224", cfg_size=224, **BLOCKS)
    config = json.loads((tmp_path / "config.json").read_text())
    size = (32, 72)
    given: dict[str, Any] = {"arguments": {"img_size": size}} if by_argument else {"arguments": {}, "image_size": size}
    for about in (config, config | {"model_args": config["model_args"] | {"img_size": [48, 48]}}):
        (tmp_path / "config.json").write_text(json.dumps(about))
        backbone = load(f"local-dir:{tmp_path}", pretrained=True, **given)
        expected = resampled(theirs.pos_embed.detach(), size, 1)
        torch.testing.assert_close(backbone.module.pos_embed.data, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [None, (48, 48)])
def test_at_its_own_size_no_table_changes(size: Size | None, tmp_path: Path) -> None:
    theirs = published(tmp_path, "vit_tiny_patch16_224", **BLOCKS)
    backbone = load(f"local-dir:{tmp_path}", {}, pretrained=True, image_size=size)
    assert torch.equal(backbone.module.get_parameter("pos_embed"), theirs.pos_embed)
    assert list(backbone.notes) == []


@pytest.mark.filterwarnings("ignore::UserWarning:timm.layers.interpolate")
def test_tables_of_windows_are_told_together(tmp_path: Path) -> None:
    published(tmp_path, "beit_base_patch16_224", **BLOCKS)
    backbone = load(f"local-dir:{tmp_path}", {}, pretrained=True, image_size=(32, 64))
    names = ", ".join(f"blocks.{i}.attn.relative_position_bias_table" for i in range(2))
    assert backbone.notes == [f"position table of 6 × 6 resampled to 4 × 8: {names}"]


LEFT: dict[str, tuple[dict[str, Any], str]] = {
    "cait_xxs24_224": ({"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}, "pos_embed"),
    "convit_tiny": (
        {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "local_up_to_layer": 1},
        "pos_embed",
    ),
    "tnt_s_patch16_224": ({"patch_size": 8, "embed_dim": 16, "inner_dim": 8, "depth": 2}, "patch_pos"),
}


@pytest.mark.parametrize("name", LEFT)
def test_a_table_that_nothing_resamples_is_refused(name: str, tmp_path: Path) -> None:
    arguments, table = LEFT[name]
    published(tmp_path, name, **arguments)
    message = (
        r"^timm model 'local-dir:.*' cannot use images of \(32, 72\) pixels, since timm does not resample its position "
        rf"table '{table}'; give an --image-size with the model's own ratio of height to width$"
    )
    with pytest.raises(InputError, match=message):
        load(f"local-dir:{tmp_path}", {}, pretrained=True, image_size=(32, 72))
    with pytest.raises(InputError, match=message):
        load(f"local-dir:{tmp_path}", {"img_size": (32, 72)}, pretrained=True)


@pytest.mark.parametrize("name", ["crossvit_9_240", "hiera_tiny_224", "levit_128s", "efficientformer_l1"])
def test_published_models_whose_tables_tell_no_grid_are_refused_where_it_may_be_another(name: str) -> None:
    """The refusal comes before any download."""
    height, width = pretrained_cfg(name).input_size[1:]
    with pytest.raises(InputError, match="timm does not resample its position table"):
        load(name, {}, pretrained=True, image_size=(height // 2, width * 2))


def clip(folder: Path) -> Any:
    torch.manual_seed(5)
    model = open_clip.CLIP(embed_dim=16, vision_cfg=VISION, text_cfg=TEXT).eval()
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    config = {"model_cfg": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return model


@pytest.mark.parametrize("size", [*TALL_AND_WIDE, (64, 64), (32, 64)])
def test_the_table_of_a_clip_comes_to_the_grid_of_the_images(size: Size, tmp_path: Path) -> None:
    theirs = clip(tmp_path)
    backbone = load_tower(f"local-dir:{tmp_path}", {}, pretrained=True, image_size=size)
    expected = resampled(theirs.visual.positional_embedding.detach()[None], size, 1)[0]
    torch.testing.assert_close(backbone.module.positional_embedding.data, expected, rtol=1e-5, atol=1e-5)
    grid = f"{size[0] // 8} × {size[1] // 8}"
    assert backbone.notes == [f"position table of 6 × 6 resampled to {grid}: positional_embedding"]


def test_at_its_own_size_no_table_of_a_clip_changes(tmp_path: Path) -> None:
    theirs = clip(tmp_path)
    for size in (None, (48, 48)):
        backbone = load_tower(f"local-dir:{tmp_path}", {}, pretrained=True, image_size=size)
        assert torch.equal(backbone.module.get_parameter("positional_embedding"), theirs.visual.positional_embedding)
        assert list(backbone.notes) == []


@pytest.mark.parametrize("size", [(112, 448), (64, 64)])
def test_the_table_of_a_trunk_is_told_with_weights_of_ones_own(size: Size, tmp_path: Path) -> None:
    name, arguments = "ViT-B-16-SigLIP/webli", {"timm_model_name": "vit_tiny_patch16_224"}
    tower: Any = load_tower(name, arguments, seed=3, image_size=None).module
    torch.save(tower.state_dict(), tmp_path / "a.pt")
    backbone = load_tower(name, arguments, checkpoint=tmp_path / "a.pt", image_size=size)
    maps = tower.trunk.pos_embed[:, 1:].view(1, 14, 14, 192).permute(0, 3, 1, 2)
    grid = (size[0] // 16, size[1] // 16)
    resized = F.interpolate(maps, size=grid, mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(
        backbone.module.get_parameter("trunk.pos_embed").data[:, 1:], resized, rtol=1e-5, atol=1e-5
    )
    assert backbone.notes == [f"position table of 14 × 14 resampled to {grid[0]} × {grid[1]}: pos_embed"]
