"""Every timm family: layers against hooks on its blocks, and the final norm against its own output."""

from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn

from tokenprobe.extract.backbones import BackboneRequest
from tokenprobe.extract.backbones.from_timm import TimmBackbone, load_timm
from tokenprobe.extract.backbones.intermediates import HookedStages, norm_values

VIT = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
SWIN = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
HIERA = {"embed_dim": 8, "stages": (1, 1, 1, 1)}
CONVNEXT = {"depths": (1, 1, 1, 1), "dims": (4, 8, 12, 16)}
SIZE = (64, 96)

REGISTERS = ["reg0", "reg1", "reg2", "reg3"]
PYRAMID = [(16, 24), (8, 12), (4, 6), (2, 3)]
"""Grids of a hierarchical model of four stages."""
OF_BLOCKS = [(8, 12), (8, 12)]


class Family(NamedTuple):
    """A small version of a model.

    Attributes:
        name: timm's.
        arguments: that make it small.
        blocks: whose outputs the layers are: a list of modules, or names.
        form: of their outputs; "pair" is the second of two, "unrolled" is Hiera's own order.
        grids: of the layers.
        prefix: names.
        norm: "tokens" if the last layer and the final norm give `forward_features`; "pooled" if they do once patches
            are averaged; "none" if the last layer is `forward_features`; "" if the model does more after it.
    """

    name: str
    arguments: dict[str, Any]
    blocks: str
    form: str
    grids: list[tuple[int, int]]
    prefix: list[str]
    norm: str


def vit(name: str, prefix: list[str], norm: str = "tokens", **changes: Any) -> Family:
    return Family(name, VIT | changes, "blocks", "NLC", OF_BLOCKS, prefix, norm)


def stages(name: str, arguments: dict[str, Any], norm: str, form: str = "NCHW", blocks: str = "stages") -> Family:
    return Family(name, arguments, blocks, form, PYRAMID, [], norm)


def stem_and_stages(name: str, arguments: dict[str, Any], blocks: str, norm: str) -> Family:
    return Family(name, arguments, blocks, "NCHW", [(32, 48), *PYRAMID], [], norm)


FAMILIES = [
    vit("vit_tiny_patch16_224", ["cls"]),
    vit("vit_base_patch16_clip_224", ["cls"]),
    vit("vit_base_patch16_siglip_224", []),
    vit("vit_base_patch16_siglip_gap_224", []),
    vit("vit_huge_patch14_gap_224", []),
    vit("vit_medium_patch16_reg4_gap_256", REGISTERS, "pooled"),
    vit("vit_small_patch14_dinov2", ["cls"]),
    vit("vit_small_patch14_reg4_dinov2", ["cls", *REGISTERS]),
    vit("deit_tiny_patch16_224", ["cls"]),
    vit("deit_tiny_distilled_patch16_224", ["cls", "dist"]),
    vit("deit3_small_patch16_224", ["cls"]),
    vit("flexivit_small", ["cls"]),
    vit("aimv2_large_patch14_224", []),
    vit("beit_base_patch16_224", ["cls"], "pooled"),
    vit("beitv2_base_patch16_224", ["cls"], "pooled"),
    vit("eva_giant_patch14_224", ["cls"], "pooled"),
    vit("eva02_tiny_patch14_224", ["cls"], "pooled"),
    vit("eva02_base_patch16_clip_224", ["cls"]),
    vit("vit_small_patch16_dinov3", ["cls", *REGISTERS]),
    vit("vit_pe_core_base_patch16_224", ["cls"]),
    vit("vit_pe_spatial_base_patch16_512", ["cls"], "none"),
    vit("vit_base_patch16_rope_reg1_gap_256", ["reg0"], "pooled"),
    vit("naflexvit_base_patch16_gap", REGISTERS, "pooled"),
    vit("naflexvit_base_patch16_siglip", []),
    vit("naflexvit_base_patch16_parfac_gap", REGISTERS, "pooled"),
    vit("vit_relpos_small_patch16_224", [], "pooled"),
    Family("samvit_base_patch16", VIT, "blocks", "NHWC", OF_BLOCKS, [], ""),
    Family(
        "vit_small_r26_s32_224",
        {"embed_dim": 16, "depth": 2, "num_heads": 2},
        "blocks", "NLC", [(2, 3)] * 2, ["cls"], "tokens",
    ),
    Family("tnt_s_patch16_224", {"depth": 2}, "blocks", "pair", [(4, 6)] * 2, ["cls"], "tokens"),
    Family("xcit_nano_12_p16_224", {"depth": 2}, "blocks", "NLC", [(4, 6)] * 2, [], ""),
    stages("hiera_tiny_224", HIERA, "pooled", "unrolled", "blocks"),
    stages("hiera_small_abswin_256", HIERA, "pooled", "unrolled", "blocks"),
    stages("swin_tiny_patch4_window7_224", SWIN | {"window_size": 4}, "tokens", "NHWC", "layers"),
    stages("swinv2_tiny_window8_256", SWIN | {"window_size": 4}, "tokens", "NHWC", "layers"),
    stages("swinv2_cr_tiny_ns_224", SWIN, "none"),
    stages("convnext_atto", CONVNEXT, "pooled"),
    stages("convnextv2_atto", CONVNEXT, "pooled"),
    stages("davit_tiny", {"depths": (1, 1, 1, 1), "embed_dims": (8, 8, 16, 16), "num_heads": (1, 1, 2, 2)}, "pooled"),
    stages("pvt_v2_b0", {}, "none"),
    stages("poolformer_s12", {}, "pooled"),
    stages("caformer_s18", {}, "pooled"),
    stages("edgenext_xx_small", {}, "pooled"),
    stages("inception_next_atto", {}, "none"),
    stages("fastvit_t8", {}, ""),
    stages("tiny_vit_5m_224", {}, "pooled"),
    stem_and_stages("resnet18", {"layers": (1, 1, 1, 1)}, "act1 layer1 layer2 layer3 layer4", "none"),
    stem_and_stages("resnet50", {"layers": (1, 1, 1, 1)}, "act1 layer1 layer2 layer3 layer4", "none"),
    stem_and_stages("seresnext50_32x4d", {"layers": (1, 1, 1, 1)}, "act1 layer1 layer2 layer3 layer4", "none"),
    stem_and_stages("resnetv2_50", {"layers": (1, 1, 1, 1)}, "stem.conv stages.0 stages.1 stages.2 stages.3", ""),
    stem_and_stages("regnety_002", {}, "stem s1 s2 s3 s4", "none"),
    stem_and_stages("efficientnet_b0", {}, "blocks.0 blocks.1 blocks.2 blocks.4 blocks.6", ""),
    stem_and_stages("coatnet_nano_rw_224", {}, "stem stages.0 stages.1 stages.2 stages.3", ""),
]  # fmt: skip


def load(family: Family) -> TimmBackbone:
    return load_timm(BackboneRequest(family.name, family.arguments, None, False, 0, SIZE))


def images() -> Tensor:
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def block_outputs(module: Any, blocks: str, form: str) -> tuple[list[Tensor], Tensor]:
    """Return each block's output as (B, N, D), prefix included, and the output of `forward_features`."""
    outputs: list[Any] = []
    named = module.get_submodule(blocks) if " " not in blocks else [module.get_submodule(n) for n in blocks.split()]
    handles = [block.register_forward_hook(lambda *seen: outputs.append(seen[2])) for block in named]
    with torch.no_grad():
        features = module.forward_features(images())
    for handle in handles:
        handle.remove()
    if form == "unrolled":
        outputs = [module.reroll(output, i) for i, output in enumerate(outputs)]
    return [as_rows(output, form) for output in outputs], features


def as_rows(output: Any, form: str) -> Tensor:
    if form == "NCHW":
        return output.permute(0, 2, 3, 1).flatten(1, 2)
    if form in ("NHWC", "unrolled"):
        return output.flatten(1, 2)
    return output[1] if form == "pair" else output


def normed(x: Tensor, norm: dict[str, Any]) -> Tensor:
    """Compute a norm over the last axis from its values, naively and in float64."""
    x = x.double()
    centred = x - x.mean(-1, keepdim=True) if norm["kind"] == "LayerNorm" else x
    scaled = centred / (centred.square().mean(-1, keepdim=True) + norm["eps"]).sqrt()
    scaled = scaled * torch.tensor(norm["weight"]).double() if norm["weight"] else scaled
    return scaled + torch.tensor(norm["bias"]).double() if norm["bias"] else scaled


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_tokens_are_the_outputs_of_the_blocks(family: Family) -> None:
    backbone = load(family)
    assert backbone.transform.input_size == SIZE
    assert backbone.prefix_names == family.prefix
    assert [shape.grid for shape in backbone.shapes] == family.grids
    expected, features = block_outputs(backbone.module, family.blocks, family.form)
    tokens = backbone.tokens(images(), range(len(backbone.shapes)))
    assert len(expected) == len(tokens)
    n_prefix = len(family.prefix)
    for layer, rows in enumerate(expected):
        patch, prefix = tokens[layer]
        shape = backbone.shapes[layer]
        assert patch.shape[1:] == (shape.n_patches, shape.dim)
        torch.testing.assert_close(patch, rows[:, n_prefix:])
        assert shape.n_prefix == n_prefix
        if prefix is None:
            assert n_prefix == 0
        else:
            torch.testing.assert_close(prefix, rows[:, :n_prefix])
    check_final_norm(family, backbone, expected[-1], features)


def check_final_norm(family: Family, backbone: TimmBackbone, last: Tensor, features: Tensor) -> None:
    norm, n_prefix = backbone.final_norm(), len(family.prefix)
    if family.norm == "none":
        assert norm is None or norm["kind"] == "LayerNorm"
        torch.testing.assert_close(last, as_rows(features, "NCHW" if features.ndim == 4 else "NLC"))
    elif family.norm:
        assert norm is not None
        if family.norm == "tokens":
            theirs = features.flatten(1, 2) if features.ndim == 4 else features
            torch.testing.assert_close(normed(last, norm).float(), theirs, rtol=1e-4, atol=1e-4)
        else:
            with torch.no_grad():
                theirs = cast(Any, backbone.module).forward_head(features, pre_logits=True)
            pooled = last[:, n_prefix:].mean(1)
            torch.testing.assert_close(normed(pooled, norm).float(), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_hooks_read_what_a_model_without_intermediates_would_give(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = next(family for family in FAMILIES if family.name == name)
    given = load(family)
    monkeypatch.delattr(type(given.module), "forward_intermediates")
    hooked = load(family)
    assert isinstance(hooked._intermediates, HookedStages)
    assert (hooked.shapes, hooked.prefix_names) == (given.shapes, given.prefix_names)
    monkeypatch.undo()
    layers = range(len(given.shapes))
    expected, found = given.tokens(images(), layers), hooked.tokens(images(), layers)
    for layer in layers:
        torch.testing.assert_close(found[layer], expected[layer], rtol=0, atol=0)


def test_the_families_are_many() -> None:
    assert len({family.name for family in FAMILIES}) >= 50


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        (nn.LayerNorm(4, eps=1e-3), "LayerNorm"),
        (nn.LayerNorm(4, elementwise_affine=False), "LayerNorm"),
        (nn.RMSNorm(4, eps=1e-3), "RMSNorm"),
    ],
)
def test_the_values_of_a_norm_compute_it(norm: nn.Module, kind: str) -> None:
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    values = norm_values([None, nn.Identity(), norm])
    assert values is not None
    assert values["kind"] == kind
    x = torch.randn(3, 4)
    torch.testing.assert_close(normed(x, values).float(), norm(x).detach(), rtol=1e-5, atol=1e-6)


def test_a_norm_over_other_axes_is_none() -> None:
    assert norm_values([nn.BatchNorm1d(4), nn.GroupNorm(2, 4), None]) is None


@pytest.mark.parametrize(("name", "of_maps"), [("resnet18", True), ("vit_tiny_patch16_224", False)])
def test_only_models_of_maps_see_channels_side_by_side(name: str, of_maps: bool) -> None:
    backbone = load_timm(BackboneRequest(name, {}, None, pretrained=False, seed=0, image_size=(64, 64)))
    first = next(module for module in backbone.module.modules() if isinstance(module, nn.Conv2d))
    seen: list[bool] = []
    first.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    patch, _ = backbone.tokens(torch.zeros(2, 3, 64, 64), [0])[0]
    assert seen == [of_maps]
    assert patch.is_contiguous() == of_maps, "a transformer's are a view behind its class token"
