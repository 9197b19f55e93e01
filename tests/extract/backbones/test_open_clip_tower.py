"""open_clip's image towers: tokens against hooks on their blocks, and the embedding computed from them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenprobe.extract.backbones.open_clip_tower import OpenClipBackbone

from .kit import SMALL_CLIP, load_tower

POOLER = {"attn_pooler_heads": 2, "attn_pooler_queries": 4}
OF_BLOCKS = [(4, 4), (4, 4)]
PYRAMID = [(16, 16), (8, 8), (4, 4), (2, 2)]


class Tower(NamedTuple):
    """A small image tower: its blocks, the grids of its layers, its prefix, and the way from tokens to embedding."""

    name: str
    arguments: dict[str, Any]
    blocks: str
    grids: list[tuple[int, int]]
    prefix: list[str]
    embed: Callable[[OpenClipBackbone, Tensor], Tensor]


def of_class_token(backbone: OpenClipBackbone, last: Tensor) -> Tensor:
    return normed(last, backbone)[:, 0] @ backbone.module.get_parameter("proj")


def of_mean(backbone: OpenClipBackbone, last: Tensor) -> Tensor:
    return normed(last[:, 1:].mean(1), backbone) @ backbone.module.get_parameter("proj")


def of_attention_pooling(backbone: OpenClipBackbone, last: Tensor) -> Tensor:
    tower: Any = backbone.module
    assert backbone.final_norm() is None
    return tower.ln_post(tower.attn_pool(last))[:, 0] @ tower.proj


def of_trunk(backbone: OpenClipBackbone, last: Tensor) -> Tensor:
    tower: Any = backbone.module
    norms_tokens = not isinstance(tower.trunk.norm, nn.Identity)  # else the pooled token, in its head
    return tower.head(tower.trunk.forward_head(normed(last, backbone) if norms_tokens else last))


def of_convolutional_trunk(backbone: OpenClipBackbone, last: Tensor) -> Tensor:
    tower: Any = backbone.module
    return tower.head(tower.trunk.forward_head(last.transpose(1, 2).unflatten(2, (2, 2))))


def of_fastvit(backbone: OpenClipBackbone, last: Tensor) -> Tensor:
    tower: Any = backbone.module
    return tower.head(tower.trunk.forward_head(tower.trunk.final_conv(last.transpose(1, 2).unflatten(2, (2, 2)))))


def of_resnet(backbone: OpenClipBackbone, last: Tensor) -> Tensor:
    tower: Any = backbone.module
    return tower.attnpool(last.transpose(1, 2).unflatten(2, (2, 2)))


def normed(tokens: Tensor, backbone: OpenClipBackbone) -> Tensor:
    norm = backbone.final_norm()
    assert norm is not None
    weight, bias = torch.tensor(norm["weight"]), torch.tensor(norm["bias"])
    return F.layer_norm(tokens, tokens.shape[-1:], weight, bias, norm["eps"])


def native(name: str, embed: Callable[[OpenClipBackbone, Tensor], Tensor], **changes: Any) -> Tower:
    return Tower(name, SMALL_CLIP | changes, "transformer.resblocks", OF_BLOCKS, ["cls"], embed)


def trunk(name: str, timm_name: str, prefix: list[str], grids: list[tuple[int, int]] | None = None) -> Tower:
    arguments = {"timm_model_name": timm_name, "embed_dim": 24}
    return Tower(name, arguments, "trunk.blocks", grids or [(4, 4)] * 12, prefix, of_trunk)


RESNET = {"layers": (1, 1, 1, 1), "width": 8, "head_width": 64, "embed_dim": 24}
TOWERS = [
    native("ViT-B-32", of_class_token),
    native("ViT-B-32-quickgelu", of_class_token),
    native("ViT-L-14-336", of_class_token),
    native("ViT-L-14-CLIPA", of_mean),
    native("coca_base", of_class_token),
    native("coca_ViT-B-32", of_attention_pooling, **POOLER),
    Tower("RN50", RESNET, "avgpool layer1 layer2 layer3 layer4", [(16, 16), *PYRAMID], [], of_resnet),
    trunk("ViT-B-16-SigLIP", "vit_wee_patch16_reg1_gap_256", ["reg0"], [(4, 4)] * 14),
    trunk("vit_relpos_medium_patch16_cls_224", "vit_relpos_small_patch16_224", []),
    trunk("EVA02-B-16", "eva02_tiny_patch14_224", ["cls"]),
    trunk("PE-Core-T-16-384", "vit_pe_core_tiny_patch16_384", ["cls"]),
    Tower(
        "convnext_base_w",
        {"timm_model_name": "convnext_atto", "embed_dim": 24},
        "trunk.stages",
        PYRAMID,
        [],
        of_convolutional_trunk,
    ),
    Tower(
        "MobileCLIP2-S0", {"timm_model_name": "fastvit_t8", "embed_dim": 24}, "trunk.stages", PYRAMID, [], of_fastvit
    ),
]


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def block_outputs(tower: Any, blocks: str) -> tuple[list[Tensor], Tensor]:
    """Return each block's output as (B, N, D), prefix included, and the tower's embedding."""
    outputs: list[Tensor] = []
    named = tower.get_submodule(blocks) if " " not in blocks else [tower.get_submodule(n) for n in blocks.split()]
    handles = [block.register_forward_hook(lambda *seen: outputs.append(seen[2])) for block in named]
    with torch.no_grad():
        embedding = tower(images())
    for handle in handles:
        handle.remove()
    embedding = embedding[0] if isinstance(embedding, tuple) else embedding  # CoCa gives tokens too
    return [x.flatten(2).transpose(1, 2) if x.ndim == 4 else x for x in outputs], embedding


@pytest.mark.parametrize("tower", TOWERS, ids=lambda tower: tower.name)
def test_tokens_are_the_outputs_of_the_blocks_and_lead_to_the_embedding(tower: Tower) -> None:
    backbone = load_tower(tower.name, tower.arguments)
    for parameter in backbone.module.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 1.0, 0.2)  # with identity norms the test could not fail
    assert backbone.prefix_names == tower.prefix
    assert [shape.grid for shape in backbone.shapes] == tower.grids
    expected, embedding = block_outputs(backbone.module, tower.blocks)
    tokens = backbone.tokens(images(), range(len(backbone.shapes)))
    assert len(expected) == len(tokens)
    n_prefix = len(tower.prefix)
    for layer, rows in enumerate(expected):
        patch, prefix = tokens[layer]
        shape = backbone.shapes[layer]
        assert (patch.shape[1:], shape.n_prefix) == ((shape.n_patches, shape.dim), n_prefix)
        torch.testing.assert_close(patch, rows[:, n_prefix:])
        if prefix is None:
            assert n_prefix == 0
        else:
            torch.testing.assert_close(prefix, rows[:, :n_prefix])
    patch, prefix = tokens[len(expected) - 1]
    last = patch if prefix is None else torch.cat([prefix, patch], 1)
    with torch.no_grad():
        torch.testing.assert_close(tower.embed(backbone, last), embedding, rtol=1e-4, atol=1e-4)
    with_embedding, found = backbone.tokens_and_embedding(images(), [0, len(expected) - 1])
    torch.testing.assert_close(found, embedding)
    torch.testing.assert_close(with_embedding[len(expected) - 1][0], patch)
    assert [shape.embedding for shape in backbone.shapes] == [0] * (len(expected) - 1) + [embedding.shape[1]]
    assert backbone.tokens_and_embedding(images(), [0])[1] is None


def test_any_choice_of_layers_gives_the_same_tokens() -> None:
    backbone = load_tower("ViT-B-32")
    everything = backbone.tokens(images(), [0, 1])
    (alone,) = backbone.tokens(images(), [0]).values()
    assert torch.equal(alone[0], everything[0][0])


def test_the_seed_decides_drawn_weights_and_the_tower_is_frozen() -> None:
    state = torch.random.get_rng_state()
    first = load_tower("ViT-B-32", seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (
        load_tower("ViT-B-32", seed=0).weights_hash()
        == first.weights_hash()
        != load_tower("ViT-B-32", seed=1).weights_hash()
    )
    assert not any(part.training for part in first.module.modules())
    assert not any(parameter.requires_grad for parameter in first.module.parameters())
