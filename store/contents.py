"""The two parts of a manifest: how a store was made, and a split of it. Each knows which of its fields decide bytes."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from math import ceil, prod
from typing import Any

from .checked import Size, UnfitError, Width, read
from .layout import LayerShape
from .quantize import DTYPES

MOST_VALUES = 2**28
"""Values of one image in one array: 4,096 tokens of 4,096 channels are 2**24."""
Json = dict[str, Any]
IDENTITY = ("n_images", "block_rows", "source", "limit", "skipped", "classes")
"""Fields of a split that decide the bytes of view 0."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bytes of every split alike.

    Attributes:
        model: source and name, such as "timm:vit_base_patch16_224.mae".
        model_args: arguments given to the model's constructor.
        weights: SHA-256 over the names, types, shapes and bytes of the weights.
        transform: the resolved transform of view 0.
        precision: that the backbone computed in, such as "float32" or "bfloat16".
        dtype: that patch and prefix tokens are stored in.
        row_order: {"kind": "shuffled", "seed": 0} or {"kind": "dataset"}.
        prefix_names: names of the prefix tokens, such as ["cls", "reg0"].
    """

    model: str
    model_args: Json
    weights: str
    transform: Json
    precision: str
    dtype: str
    row_order: Json
    prefix_names: list[str]

    @cached_property
    def text(self) -> str:
        """The fields as JSON with sorted keys, for fingerprints."""
        return json.dumps(asdict(self), sort_keys=True)

    def check(self) -> None:
        """Refuse what no store can be made by.

        Raises:
            UnfitError: an unknown dtype, or a transform without the size of its images.
        """
        if self.dtype not in DTYPES:
            raise UnfitError(f"dtype is {self.dtype[:20]!r}; expected {', '.join(DTYPES)}")
        read(tuple[Width, Width], self.transform.get("input_size"), "transform.input_size")


@dataclass(frozen=True)
class SplitInfo:
    """One split: which images, in which blocks, and which layers are kept of them.

    Attributes:
        n_images: rows.
        block_rows: images in a block; the last block may hold fewer.
        source: hash of the images' (id, size, label) list before any limit.
        limit: {"n": 1000, "seed": 0} if a class-balanced part was asked for, else None.
        skipped: ids of unreadable images that were left out.
        classes: class names, by label.
        layers: for each layer's name, the arrays kept.
        views: fixed draws of the transform; view 0 is the evaluation transform.
        augmentation: how views from 1 on are drawn, or None if there are none.
    """

    n_images: Size
    block_rows: Size
    source: str
    limit: Json | None
    skipped: list[str]
    classes: list[str]
    layers: dict[str, list[str]]
    views: Size = 1
    augmentation: Json | None = None

    @property
    def n_blocks(self) -> int:
        """Blocks of the split."""
        return ceil(self.n_images / self.block_rows)

    @cached_property
    def identity(self) -> Json:
        """The fields that decide the bytes of view 0: all but the choice of layers and of views."""
        return {key: value for key, value in vars(self).items() if key in IDENTITY}

    @cached_property
    def text(self) -> str:
        """The identity as JSON with sorted keys, for fingerprints."""
        return json.dumps(self.identity, sort_keys=True)

    def check(self, shapes: Mapping[str, LayerShape], dtype: str) -> None:
        """Refuse a split whose layers cannot be those of the store.

        Args:
            shapes: of the layers of the store.
            dtype: of its tokens.

        Raises:
            UnfitError: a layer or an array that no store of these shapes and this dtype has, or none.
        """
        if not self.layers:
            raise UnfitError("it has no layers")
        for layer, kinds in self.layers.items():
            if layer not in shapes:
                raise UnfitError(f"{layer[:20]!r} is no layer of the store")
            known = shapes[layer].kinds(dtype)
            if not kinds or not known >= set(kinds) or len(kinds) > len(set(kinds)):
                expected = ", ".join(sorted(known))
                raise UnfitError(
                    f"arrays of {layer} are {', '.join(kinds)[:100] or 'none'}; expected some of {expected}"
                )
            for kind in kinds:
                if (n := prod(shapes[layer].row_shape(kind))) > MOST_VALUES:
                    raise UnfitError(f"{kind} of {layer} has {n} values an image; expected at most {MOST_VALUES}")
