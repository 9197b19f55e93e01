"""An open_clip image tower as a backbone: tokens of its blocks, and the embedding computed from the last block."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..views import Transform
from .contract import Backbone, Tokens
from .intermediates import Intermediates, TimmIntermediates, device_of, final_norm_of, norm_values, prefix_names


class OpenClipBackbone(Backbone):
    """An open_clip image tower; see `from_open_clip.py`."""

    packages = ("open_clip_torch",)

    def __init__(self, name: str, tower: nn.Module, arguments: Mapping[str, Any], transform: Transform) -> None:
        self.name, self.module, self.arguments, self.transform = name, tower, arguments, transform
        self._trunk: Any = getattr(tower, "trunk", None)
        self._intermediates = intermediates_of_tower(tower)
        self.shapes = self._intermediates.shapes(transform.input_size)
        n_prefix = self.shapes[-1].n_prefix
        self.prefix_names = ["cls"][:n_prefix] if self._trunk is None else prefix_names(self._trunk, n_prefix)
        image = torch.zeros(1, 3, *transform.input_size, device=device_of(tower))
        _, embedding = self.tokens_and_embedding(image, [len(self.shapes) - 1])
        assert embedding is not None
        self.shapes[-1] = replace(self.shapes[-1], embedding=embedding.shape[1])

    def tokens(self, images: Tensor, layers: Sequence[int]) -> dict[int, Tokens]:
        """See `Backbone.tokens`."""
        return dict(zip(sorted(layers), self._intermediates(images, sorted(layers)), strict=True))

    def tokens_and_embedding(self, images: Tensor, layers: Sequence[int]) -> tuple[dict[int, Tokens], Tensor | None]:
        """See `Backbone.tokens_and_embedding`. The embedding is pooled and projected, not yet normalised."""
        if len(self.shapes) - 1 not in layers:
            return self.tokens(images, layers), None
        outputs, final = self._intermediates.with_output(images, sorted(layers))
        if self._trunk is not None:
            with torch.no_grad():
                final = self.module.head(self._trunk.forward_head(final))  # type: ignore[operator]
        return dict(zip(sorted(layers), outputs, strict=True)), final

    def final_norm(self) -> dict[str, Any] | None:
        """See `Backbone.final_norm`. A norm after the pooling does not count: it sees no tokens of the last layer."""
        if self._trunk is not None:
            return final_norm_of(self._trunk)
        pools_first = getattr(self.module, "attn_pool", None) is not None
        return None if pools_first else norm_values([getattr(self.module, "ln_post", None)])


class TowerIntermediates(Intermediates):
    """The `forward_intermediates` of open_clip's own towers, which returns a dictionary."""

    def __init__(self, tower: nn.Module) -> None:
        """See `Intermediates`."""
        self._tower: Any = tower
        self._has_prefix = hasattr(tower, "class_embedding")
        super().__init__(tower, of_tokens=self._has_prefix)

    def _run(
        self, images: Tensor, layers: list[int] | None, form: str, *, whole: bool = False
    ) -> tuple[list[Any], Any]:
        with torch.no_grad():
            found = self._tower.forward_intermediates(
                images,
                indices=layers,
                stop_early=True,
                intermediates_only=not whole,
                output_fmt=form,
                output_extra_tokens=self._has_prefix,
            )
        outputs: list[Any] = found["image_intermediates"]
        if self._has_prefix:
            outputs = list(zip(outputs, found["image_intermediates_prefix"], strict=True))
        return outputs, found.get("image_features")


def intermediates_of_tower(tower: nn.Module) -> Intermediates:
    """Return a reader for the blocks of a tower, or of its timm trunk."""
    trunk = getattr(tower, "trunk", None)
    return TowerIntermediates(tower) if trunk is None else TimmIntermediates(trunk)
