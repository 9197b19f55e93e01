"""Shared by the tests of backbones: small models, their weights as files, and the outputs of their blocks."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.models import PretrainedCfg, VisionTransformer
from torch import Tensor, nn

from tokenprobe.extract.backbones import BackboneRequest
from tokenprobe.extract.backbones.from_open_clip import load_open_clip
from tokenprobe.extract.backbones.from_timm import TimmBackbone, load_timm
from tokenprobe.extract.backbones.open_clip_tower import OpenClipBackbone
from tokenprobe.extract.backbones.weights.files import Checkpoint

from ...conftest import TINY_VIT

TINY_BLOCKS: dict[str, Any] = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
NO_PREFIX = {"class_token": False, "global_pool": "avg"}


def load(name: str = "VisionTransformer", arguments: dict[str, Any] | None = None, **changes: Any) -> TimmBackbone:
    fields = {"checkpoint": None, "pretrained": False, "seed": 0}
    return load_timm(BackboneRequest(name, TINY_VIT if arguments is None else arguments, **fields | changes))


def made_vit(**changes: Any) -> VisionTransformer:
    torch.manual_seed(5)
    model = VisionTransformer(num_classes=0, **TINY_VIT | changes).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def save(model: nn.Module, path: Path, changes: dict[str, Tensor] | None = None, **metadata: str) -> Path:
    save_file({k: v.contiguous() for k, v in (model.state_dict() | (changes or {})).items()}, path, metadata=metadata)
    return path


def hooked(modules: Iterable[nn.Module], model: nn.Module, images: Tensor) -> list[Tensor]:
    outputs: list[Tensor] = []
    handles = [module.register_forward_hook(lambda *seen: outputs.append(seen[2])) for module in modules]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return outputs


def pretrained_cfg(name: str) -> PretrainedCfg:
    """Return what timm knows of a published model."""
    found = timm.get_pretrained_cfg(name)
    assert found is not None
    return found


def images(height: int = 16, width: int = 16) -> Tensor:
    return torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(1))


SMALL_CLIP: dict[str, Any] = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 16, "embed_dim": 24}


def load_tower(name: str, arguments: dict[str, Any] | None = None, **changes: Any) -> OpenClipBackbone:
    fields: dict[str, Any] = {"checkpoint": None, "pretrained": False, "seed": 0, "image_size": (64, 64)}
    return load_open_clip(BackboneRequest(name, SMALL_CLIP if arguments is None else arguments, **fields | changes))


WEIGHTS = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor([7.0, 8.0])}


def named(prefix: str, weights: Mapping[str, Tensor] = WEIGHTS) -> dict[str, Tensor]:
    return {prefix + name: tensor.clone() for name, tensor in weights.items()}


def of_file(weights: Mapping[str, Tensor], *sets: str) -> Checkpoint:
    return Checkpoint(Path("a.pt"), dict(weights), sets or ("",), {})


def assert_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor] = WEIGHTS) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
