"""The contract of backbone sources: tokens of chosen layers, and the facts that a store keeps about them."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...store.layout import LayerShape
from ..views import Transform
from .weights.loading import LoadReport, Reading

Tokens = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class BackboneRequest:
    """A request for a backbone with its weights.

    Attributes:
        name: name without the source's prefix.
        arguments: arguments for the model's constructor.
        checkpoint: file with the weights, or None.
        pretrained: whether to load the published weights if there is no checkpoint.
        seed: seed of drawn weights.
        image_size: (height, width) of the input images in pixels, or None for the backbone's own.
        reading: settings for reading the checkpoint.
        fetches: whether published weights may be downloaded; if not, weights of the same shapes are drawn instead.
    """

    name: str
    arguments: Mapping[str, Any]
    checkpoint: Path | None
    pretrained: bool
    seed: int
    image_size: tuple[int, int] | None = None
    reading: Reading = field(default_factory=Reading)
    fetches: bool = True

    @property
    def wants_published(self) -> bool:
        """Whether the published weights are meant."""
        return self.pretrained and self.checkpoint is None

    @property
    def downloads(self) -> bool:
        """Whether the published weights are loaded."""
        return self.wants_published and self.fetches


class Backbone(ABC):
    """A frozen backbone.

    Attributes:
        name: name with its source, such as "timm:vit_base_patch16_224".
        module: the model, in evaluation mode and without gradients.
        arguments: arguments of its constructor.
        shapes: shape of every layer's tokens, by layer index.
        prefix_names: names of the prefix tokens, in order, such as ("cls", "reg0").
        transform: transform of view 0.
        packages: distributions that built it, besides torch and timm.
        loaded: report on the loaded checkpoint, or None if there was none.
        notes: further lines for the user about how it was built.
    """

    name: str
    module: nn.Module
    arguments: Mapping[str, Any]
    shapes: Sequence[LayerShape]
    prefix_names: Sequence[str]
    transform: Transform
    packages: Sequence[str] = ()
    loaded: LoadReport | None = None
    notes: Sequence[str] = ()

    @abstractmethod
    def tokens(self, images: Tensor, layers: Sequence[int]) -> dict[int, Tokens]:
        """Run the backbone once.

        Args:
            images: (B, 3, H, W), normalised.
            layers: indices of the wanted layers.

        Returns:
            For each layer its raw output, before the final norm: patch tokens (B, patches, dim), row by row
            over the grid, and prefix tokens (B, prefix, dim) or None.
        """

    def tokens_and_embedding(self, images: Tensor, layers: Sequence[int]) -> tuple[dict[int, Tokens], Tensor | None]:
        """Run the backbone once, as `tokens` does, and return its own embedding of the images too.

        Returns:
            The tokens; and (B, embedding), with the width `LayerShape.embedding` of the last layer, or None if the
            backbone has no embedding or the last layer is not wanted.
        """
        return self.tokens(images, layers), None

    @abstractmethod
    def final_norm(self) -> dict[str, Any] | None:
        """Return kind, eps, weight and bias of the norm after the last layer, as JSON values, or None."""

    def weights_hash(self) -> str:
        """Return the SHA-256 of the names, types, shapes and bytes of all weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
