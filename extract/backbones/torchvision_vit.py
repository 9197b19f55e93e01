"""Names of the weights in torchvision's VisionTransformer, the same network as timm's."""

from .weights.sets import Weights

OURS = (
    ("class_token", "cls_token"),
    ("conv_proj.", "patch_embed.proj."),
    ("encoder.pos_embedding", "pos_embed"),
    ("encoder.layers.encoder_layer_", "blocks."),
    ("encoder.ln.", "norm."),
    ("heads.", "head."),
    (".ln_1.", ".norm1."),
    (".ln_2.", ".norm2."),
    (".self_attention.in_proj_", ".attn.qkv."),
    (".self_attention.out_proj.", ".attn.proj."),
    (".mlp.linear_1.", ".mlp.fc1."),
    (".mlp.linear_2.", ".mlp.fc2."),
    (".mlp.0.", ".mlp.fc1."),
    (".mlp.3.", ".mlp.fc2."),
)
"""Parts of names: torchvision's (two generations for the MLP), then timm's."""


def renamed(weights: Weights) -> Weights:
    """Rename weights of torchvision's VisionTransformer to timm's names; return other weights unchanged."""
    if not {"class_token", "conv_proj.weight"} <= weights.keys():
        return weights
    return {_renamed(name): tensor for name, tensor in weights.items()}


def _renamed(name: str) -> str:
    for theirs, ours in OURS:
        name = name.replace(theirs, ours)
    return name
