"""The list of published transformers models: their shapes are those of the same models in timm and open_clip."""

import pytest

from tokenprobe.cli import main
from tokenprobe.extract.backbones.catalogue import page_of, shapes_of
from tokenprobe.extract.backbones.transformers_models import transformers_names, transformers_shapes

TWINS = {
    "facebook/dinov2-with-registers-base": "timm:vit_base_patch14_reg4_dinov2.lvd142m",
    "facebook/dinov2-giant": "timm:vit_giant_patch14_dinov2.lvd142m",
    "facebook/dinov3-vitl16-pretrain-lvd1689m": "timm:vit_large_patch16_dinov3.lvd1689m",
    "facebook/dinov3-vith16plus-pretrain-lvd1689m": "timm:vit_huge_plus_patch16_dinov3.lvd1689m",
    "google/siglip-so400m-patch14-384": "open_clip:ViT-SO400M-14-SigLIP-384/webli",
    "google/siglip2-large-patch16-256": "open_clip:ViT-L-16-SigLIP2-256/webli",
    "openai/clip-vit-large-patch14-336": "open_clip:ViT-L-14-336/openai",
    "openai/clip-vit-base-patch32": "open_clip:ViT-B-32/openai",
    "facebook/ijepa_vith14_1k": "timm:vit_huge_patch14_gap_224.in1k_ijepa",
    "facebook/vit-mae-huge": "timm:vit_huge_patch14_224.mae",
    "microsoft/beit-large-patch16-224": "timm:beit_large_patch16_224.in22k_ft_in22k",
    "microsoft/swin-base-patch4-window7-224": "timm:swin_base_patch4_window7_224.ms_in22k",
    "facebook/convnext-tiny-224": "timm:convnext_tiny.fb_in1k",
}
GRID_IN_TIMM = ("facebook/dinov2", "facebook/dinov3", "facebook/convnext")
"""Their processors crop 224 pixels; timm's weights were evaluated at another size."""


@pytest.mark.parametrize("name", TWINS)
def test_shapes_are_those_of_the_same_model_elsewhere(name: str) -> None:
    own, twin = transformers_shapes(name), shapes_of(TWINS[name])
    assert [(shape.dim, shape.n_prefix) for shape in own] == [(shape.dim, shape.n_prefix) for shape in twin]
    if not name.startswith(GRID_IN_TIMM):
        assert [shape.grid for shape in own] == [shape.grid for shape in twin]


def test_the_grid_is_that_of_the_size_in_the_name() -> None:
    for name in transformers_names():
        *_, patch, size = name.split("-") if name.count("patch") and name[-1].isdigit() else ("", "", "")
        if patch.startswith("patch"):
            side = int(size) // int(patch.removeprefix("patch"))
            assert transformers_shapes(name)[0].grid == (side, side), name


def test_models_are_listed_by_name_with_or_without_organisation(capsys: pytest.CaptureFixture[str]) -> None:
    assert page_of("clip-vit-large*").names == [
        "transformers:openai/clip-vit-large-patch14",
        "transformers:openai/clip-vit-large-patch14-336",
    ]
    assert page_of("transformers:google/siglip2*").names == page_of("google/siglip2*").names != []
    assert main(["models", "vit-mae-base"]) == 0
    assert "transformers:facebook/vit-mae-base" in capsys.readouterr().out
