"""The two parts of a manifest: the recipe of a store, and one split. Each knows which of its fields decide bytes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import ceil, prod
from typing import Any

from .checked import Size, UnfitError, Width, read
from .layout import LayerShape
from .quantize import DTYPES

MOST_VALUES = 2**28
"""Most values per image in one array. 4,096 tokens of 4,096 channels are 2**24."""
Json = dict[str, Any]
IDENTITY = ("n_images", "block_rows", "source", "limit", "skipped", "classes")
"""Fields of a split that decide the bytes of view 0."""


@dataclass(frozen=True)
class Recipe:
    """The settings that decide the bytes of every split.

    Attributes:
        model: source and name, such as "timm:vit_base_patch16_224.mae".
        model_args: arguments given to the model's constructor.
        weights: SHA-256 over the names, types, shapes and bytes of the weights.
        transform: the resolved transform of view 0.
        precision: of the backbone's computation, such as "float32" or "bfloat16".
        dtype: of the stored patch and prefix tokens.
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
        """Refuse a recipe that no store can have.

        Raises:
            UnfitError: an unknown dtype, or a transform without the size of its images.
        """
        if self.dtype not in DTYPES:
            raise UnfitError(f"dtype is {self.dtype[:20]!r}; expected {', '.join(DTYPES)}")
        read(tuple[Width, Width], self.transform.get("input_size"), "transform.input_size")


@dataclass(frozen=True)
class Limit:
    """The class-balanced part of its images that a split holds.

    Attributes:
        n: the largest number of images; None for all.
        seed: it draws them.
        after: smaller limits that the split had before, in rising order. Their rows come first.
    """

    n: Size | None
    seed: int
    after: list[Size] = field(default_factory=list)


def limit_json(limits: Sequence[int | None], seed: int) -> Json | None:
    """Return the limit of a split, as a manifest holds it: None for all images from the beginning."""
    *after, last = limits
    if last is None and not after:
        return None
    return {"n": last, "seed": seed} | ({"after": after} if after else {})


@dataclass(frozen=True)
class SplitInfo:
    """One split: its images, their blocks, and the stored layers.

    Attributes:
        n_images: rows.
        block_rows: images per block; the last block may hold fewer.
        source: hash of the images' (id, size, label) list before any limit.
        limit: {"n": 1000, "seed": 0} for a class-balanced part, else None. If the store grew, also "after": [500], its
            limits before. "n" is null if it then got all images.
        skipped: ids of unreadable images that were left out.
        classes: class names, by label.
        layers: the stored arrays, by layer name.
        views: fixed draws of the transform; view 0 is the evaluation transform.
        augmentation: settings that draw views 1 and up, or None if there are none.
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
        """Blocks per view."""
        return ceil(self.n_images / self.block_rows)

    @property
    def limits(self) -> list[int | None]:
        """The limits that the split had, in rising order; None stands for all images."""
        limit: Limit | None = None if self.limit is None else read(Limit, self.limit, "limit")
        return [None] if limit is None else [*limit.after, limit.n]

    def grown_to(self, other: "SplitInfo") -> bool:
        """Whether another split is this one with a larger limit, drawn by the same seed."""
        if self.limit is None or other.limit is None or self.limit["seed"] != other.limit["seed"]:
            return False
        return self.limits == other.limits[:-1]

    @cached_property
    def identity(self) -> Json:
        """The fields that decide the bytes of view 0: all except layers and views."""
        return {key: value for key, value in vars(self).items() if key in IDENTITY}

    @cached_property
    def text(self) -> str:
        """The identity as JSON with sorted keys, for fingerprints."""
        return json.dumps(self.identity, sort_keys=True)

    def check(self, shapes: Mapping[str, LayerShape], dtype: str) -> None:
        """Refuse a split whose layers do not fit the store.

        Args:
            shapes: of the store's layers.
            dtype: of its tokens.

        Raises:
            UnfitError: no layers or arrays, or one that a store of these shapes and this dtype cannot have; or limits
                that do not rise.
        """
        if self.limits != sorted(self.limits, key=lambda limit: (limit is None, limit)) or None in self.limits[:-1]:
            raise UnfitError(f"its limits are {self.limits}; expected rising numbers")
        if not self.layers:
            raise UnfitError("it has no layers")
        for layer, kinds in self.layers.items():
            if layer not in shapes:
                raise UnfitError(f"{layer[:20]!r} is not a layer of the store")
            known = shapes[layer].kinds(dtype)
            if not kinds or not known >= set(kinds) or len(kinds) > len(set(kinds)):
                expected = ", ".join(sorted(known))
                raise UnfitError(
                    f"arrays of {layer} are {', '.join(kinds)[:100] or 'none'}; expected some of {expected}"
                )
            for kind in kinds:
                if (n := prod(shapes[layer].row_shape(kind))) > MOST_VALUES:
                    raise UnfitError(f"{kind} of {layer} has {n} values per image; expected at most {MOST_VALUES}")
