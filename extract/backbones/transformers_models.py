"""Published vision models of Hugging Face transformers, with the shapes of their layers, for `probe models`.

The hub has thousands more; any of them loads by its name. This list names the originals of each family.
"""

from ...store.layout import LayerShape

PUBLISHED: dict[str, tuple[int, int, int, int]] = {
    "facebook/dinov2-small": (12, 384, 16, 1),
    "facebook/dinov2-base": (12, 768, 16, 1),
    "facebook/dinov2-large": (24, 1024, 16, 1),
    "facebook/dinov2-giant": (40, 1536, 16, 1),
    "facebook/dinov2-with-registers-small": (12, 384, 16, 5),
    "facebook/dinov2-with-registers-base": (12, 768, 16, 5),
    "facebook/dinov2-with-registers-large": (24, 1024, 16, 5),
    "facebook/dinov2-with-registers-giant": (40, 1536, 16, 5),
    "facebook/dinov3-vits16-pretrain-lvd1689m": (12, 384, 14, 5),
    "facebook/dinov3-vits16plus-pretrain-lvd1689m": (12, 384, 14, 5),
    "facebook/dinov3-vitb16-pretrain-lvd1689m": (12, 768, 14, 5),
    "facebook/dinov3-vitl16-pretrain-lvd1689m": (24, 1024, 14, 5),
    "facebook/dinov3-vith16plus-pretrain-lvd1689m": (32, 1280, 14, 5),
    "facebook/dinov3-vit7b16-pretrain-lvd1689m": (40, 4096, 14, 5),
    "google/siglip-base-patch16-224": (12, 768, 14, 0),
    "google/siglip-base-patch16-256": (12, 768, 16, 0),
    "google/siglip-base-patch16-384": (12, 768, 24, 0),
    "google/siglip-large-patch16-256": (24, 1024, 16, 0),
    "google/siglip-large-patch16-384": (24, 1024, 24, 0),
    "google/siglip-so400m-patch14-384": (27, 1152, 27, 0),
    "google/siglip2-base-patch16-224": (12, 768, 14, 0),
    "google/siglip2-base-patch16-256": (12, 768, 16, 0),
    "google/siglip2-large-patch16-256": (24, 1024, 16, 0),
    "google/siglip2-so400m-patch14-384": (27, 1152, 27, 0),
    "openai/clip-vit-base-patch32": (12, 768, 7, 1),
    "openai/clip-vit-base-patch16": (12, 768, 14, 1),
    "openai/clip-vit-large-patch14": (24, 1024, 16, 1),
    "openai/clip-vit-large-patch14-336": (24, 1024, 24, 1),
    "facebook/ijepa_vith14_1k": (32, 1280, 16, 0),
    "facebook/ijepa_vith16_1k": (32, 1280, 28, 0),
    "facebook/vit-mae-base": (12, 768, 14, 1),
    "facebook/vit-mae-large": (24, 1024, 14, 1),
    "facebook/vit-mae-huge": (32, 1280, 16, 1),
    "google/vit-base-patch16-224-in21k": (12, 768, 14, 1),
    "google/vit-large-patch16-224-in21k": (24, 1024, 14, 1),
    "microsoft/beit-base-patch16-224": (12, 768, 14, 1),
    "microsoft/beit-large-patch16-224": (24, 1024, 14, 1),
    "facebook/data2vec-vision-base": (12, 768, 14, 1),
    "facebook/data2vec-vision-large": (24, 1024, 14, 1),
}
"""Layers, width, side of the grid at the size of the model's own image processor, and prefix tokens."""

PYRAMIDS: dict[str, tuple[int, ...]] = {
    "microsoft/swin-tiny-patch4-window7-224": (96, 192, 384, 768),
    "microsoft/swin-base-patch4-window7-224": (128, 256, 512, 1024),
    "facebook/convnext-tiny-224": (96, 192, 384, 768),
    "facebook/convnext-base-224": (128, 256, 512, 1024),
}
"""Width of each stage of the published models whose stages halve a grid of 56 × 56."""


def transformers_names() -> list[str]:
    """Return the published models of the list."""
    return [*PUBLISHED, *PYRAMIDS]


def transformers_shapes(name: str) -> list[LayerShape]:
    """Return the shapes of a published model's layers, without its weights or its configuration."""
    if name in PYRAMIDS:
        return [LayerShape((56 >> stage, 56 >> stage), dim, 0) for stage, dim in enumerate(PYRAMIDS[name])]
    n_layers, dim, side, n_prefix = PUBLISHED[name]
    return [LayerShape((side, side), dim, n_prefix)] * n_layers
