"""Shared by the tests of transformers models: small configurations, written to folders with drawn weights."""

import io
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from tokenprobe.extract.backbones import BackboneRequest
from tokenprobe.extract.backbones.from_transformers import TransformersBackbone, load_transformers

BLOCKS: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
MLP = BLOCKS | {"intermediate_size": 48}
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 24], "depths": [1, 2, 1], "num_stages": 3}
WINDOWS: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 12,
    "depths": [1, 2, 1],
    "num_heads": [1, 2, 3],
    "window_size": 2,
}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
FLAT, PYRAMID = [(4, 4)] * 3, [(8, 8), (4, 4), (2, 2)]
REGISTERS = ["reg0", "reg1", "reg2", "reg3"]


@dataclass(frozen=True)
class Kind:
    """A small model, and what its own code says of it.

    Attributes:
        name: name of its configuration class, without "Config".
        arguments: arguments of the configuration.
        blocks: path of the list of its blocks.
        norm: path of its last norm, or "" if no norm is over channels.
        prefix: names of the prefix tokens.
        grids: grid of each layer.
        tower: path of the vision model in the whole model.
    """

    name: str
    arguments: Mapping[str, Any]
    blocks: str
    norm: str
    prefix: list[str] = field(default_factory=list)
    grids: list[tuple[int, int]] = field(default_factory=lambda: FLAT)
    tower: str = ""


CLS = ["cls"]
KINDS = {
    "dinov2": Kind("Dinov2", BLOCKS, "encoder.layer", "layernorm", CLS),
    "dinov2-registers": Kind("Dinov2WithRegisters", BLOCKS, "encoder.layer", "layernorm", [*CLS, *REGISTERS]),
    "dinov3": Kind("DINOv3ViT", MLP | {"num_register_tokens": 2}, "model.layer", "norm", [*CLS, *REGISTERS[:2]]),
    "siglip-vision": Kind("SiglipVision", MLP, "encoder.layers", "post_layernorm"),
    "siglip": Kind(
        "Siglip", {"vision_config": MLP, "text_config": TEXT}, "encoder.layers", "post_layernorm", tower="vision_model"
    ),
    "clip-vision": Kind("CLIPVision", MLP, "encoder.layers", "post_layernorm", CLS),
    "clip": Kind(
        "CLIP",
        {"vision_config": MLP, "text_config": TEXT},
        "encoder.layers",
        "post_layernorm",
        CLS,
        FLAT,
        "vision_model",
    ),
    "ijepa": Kind("IJepa", MLP, "layers", "layernorm"),
    "aimv2": Kind("Aimv2Vision", MLP, "encoder.layers", "rms_norm"),
    "aimv2-native": Kind("Aimv2Vision", MLP | {"is_native": True}, "encoder.layers", "rms_norm"),
    "mae": Kind("ViTMAE", MLP, "layers", "layernorm", CLS),
    "beit": Kind("Beit", MLP | {"use_relative_position_bias": True}, "layers", "pooler.layernorm", CLS),
    "beit-class": Kind("Beit", MLP | {"use_mean_pooling": False}, "layers", "layernorm", CLS),
    "data2vec": Kind("Data2VecVision", MLP | {"use_mean_pooling": False}, "encoder.layer", "layernorm", CLS),
    "data2vec-mean": Kind(
        "Data2VecVision", MLP | {"use_shared_relative_position_bias": True}, "encoder.layer", "", CLS
    ),
    "vit": Kind("ViT", MLP, "layers", "layernorm", CLS),
    "deit": Kind("DeiT", MLP, "layers", "layernorm", [*CLS, "dist"]),
    "swin": Kind("Swin", WINDOWS, "encoder.layers", "layernorm", [], PYRAMID),
    "swinv2": Kind("Swinv2", WINDOWS, "encoder.layers", "layernorm", [], PYRAMID),
    "convnext": Kind("ConvNext", STAGES | {"layer_scale_init_value": 1.0}, "encoder.stages", "layernorm", [], PYRAMID),
    "convnextv2": Kind("ConvNextV2", STAGES, "encoder.stages", "layernorm", [], PYRAMID),
    "resnet": Kind("ResNet", STAGES | {"embedding_size": 8}, "encoder.stages", "", [], PYRAMID),
}


def made_folder(folder: Path, kind: Kind, processor: Any = None, **changes: Any) -> Path:
    """Write a model with drawn weights, none of them constant, and an image processor; return the folder."""
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind.name}Config")(**{**kind.arguments, **changes})
    model = transformers.AutoModel.from_config(config)
    for name, parameter in model.named_parameters():
        around = 1.0 if name.endswith("weight") and parameter.ndim == 1 else 0.0
        nn.init.normal_(parameter, around, 0.2)  # with identity norms the tests could not fail
    with redirect_stderr(io.StringIO()):
        model.save_pretrained(folder)
    (processor or transformers.ViTImageProcessor(size={"height": 32, "width": 32})).save_pretrained(folder)
    return folder


def load_folder(folder: Path, **changes: Any) -> TransformersBackbone:
    fields: dict[str, Any] = {"arguments": {}, "checkpoint": None, "pretrained": True, "seed": 0}
    return load_transformers(BackboneRequest(f"local-dir:{folder}", **fields | changes))


def images(height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
