"""The manifest: a store's contents, their source, and how they were made. It is the attributes of the root group.

Identical extractions give identical manifests: there are no times, hosts or absolute paths in one.
`Manifest.merged` is the only way a store grows.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from typing import Any

from ..errors import StoreError, unknown_name
from .layout import FORMAT_VERSION, LayerShape, layer_index, layer_name

Json = dict[str, Any]
Differences = dict[str, tuple[Any, Any]]
"""(stored, asked) by dotted field."""


class _Absent:
    """Stands for a field that one side does not have."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT = _Absent()


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

    n_images: int
    block_rows: int
    source: str
    limit: Json | None
    skipped: list[str]
    classes: list[str]
    layers: dict[str, list[str]]
    views: int = 1
    augmentation: Json | None = None

    @property
    def n_blocks(self) -> int:
        """Blocks of the split."""
        return ceil(self.n_images / self.block_rows)

    def identity(self) -> Json:
        """Return the fields that decide the bytes of view 0: all but the choice of layers and of views."""
        return {key: value for key, value in asdict(self).items() if key not in ("layers", "views", "augmentation")}


@dataclass(frozen=True)
class Manifest:
    """The whole description of a store. See `docs/store-format.md`.

    Attributes:
        recipe: the settings that decide the bytes of all splits.
        dataset: short name of the data, such as "folder:imagenet".
        depth: blocks of the backbone, stored or not.
        layers: shape of each stored layer, by name.
        final_norm: kind, eps, weight and bias of the backbone's last norm, or None.
        splits: by name.
        versions: of the packages that made the store.
        complete: whether every block of everything declared has been written.
    """

    recipe: Recipe
    dataset: str
    depth: int
    layers: dict[str, LayerShape]
    final_norm: Json | None
    splits: dict[str, SplitInfo]
    versions: dict[str, str]
    complete: bool = False
    format: int = field(default=FORMAT_VERSION)

    def fingerprint(self, split: str, layer: int, view: int = 0) -> str:
        """Return the hash of everything that decides the bytes of one (split, layer, view)."""
        deciding = {
            "format": self.format,
            "recipe": asdict(self.recipe),
            "split": self.splits[split].identity(),
            "layer": layer,
            "view": view,
        }
        if view:
            deciding["augmentation"] = self.splits[split].augmentation
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> Json:
        """Return the root attributes: plain JSON values, fingerprints included."""
        attributes = asdict(self)
        attributes |= attributes.pop("recipe")
        attributes["fingerprints"] = {
            split: {
                name: [self.fingerprint(split, layer_index(name), view) for view in range(info.views)]
                for name in info.layers
            }
            for split, info in self.splits.items()
        }
        return json.loads(json.dumps(attributes, sort_keys=True))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, attributes: Json) -> "Manifest":
        """Read root attributes back.

        Raises:
            StoreError: written by another version of the format, or damaged.
        """
        if attributes.get("format") != FORMAT_VERSION:
            found = attributes.get("format")
            raise StoreError(f"store format {found!r} is not known here: this version reads format {FORMAT_VERSION}")
        try:
            recipe = Recipe(**{name: attributes[name] for name in Recipe.__dataclass_fields__})
            layers = {
                name: LayerShape(
                    (shape["grid"][0], shape["grid"][1]), shape["dim"], shape["n_prefix"], shape.get("embedding", 0)
                )
                for name, shape in attributes["layers"].items()
            }
            splits = {name: SplitInfo(**info) for name, info in attributes["splits"].items()}
            plain = ("dataset", "depth", "final_norm", "versions", "complete", "format")
            manifest = cls(recipe=recipe, layers=layers, splits=splits, **{name: attributes[name] for name in plain})
            fingerprints = attributes["fingerprints"]
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise StoreError(f"the manifest is damaged: {type(error).__name__} {error}") from error
        if fingerprints != manifest.to_json()["fingerprints"]:
            raise StoreError("the manifest was changed by hand: its fingerprints are not those of its content")
        return manifest

    def holds(self, earlier: "Manifest") -> bool:
        """Whether all that an earlier manifest declares is declared here too, with the same bytes."""
        here, there = self._fingerprints(), earlier._fingerprints()
        return here.items() >= there.items()

    def _fingerprints(self) -> dict[tuple[str, str, int], str]:
        """Return every fingerprint by split, layer's name and view."""
        return {
            (split, name, view): self.fingerprint(split, layer_index(name), view)
            for split, info in self.splits.items()
            for name in info.layers
            for view in range(info.views)
        }

    def split(self, name: str) -> SplitInfo:
        """Return one split, or raise InputError naming those there are."""
        if name not in self.splits:
            raise unknown_name("split", name, self.splits)
        return self.splits[name]

    def shape(self, layer: int) -> LayerShape:
        """Return the shape of one stored layer."""
        return self.layers[layer_name(layer)]

    def merged(self, wanted: "Manifest") -> "Manifest":
        """Return this manifest extended by the splits, layers, arrays and views that `wanted` adds.

        While a store is incomplete, `wanted` may leave more images out of a split: `moved_rows.py` says which files
        depend on them.

        Raises:
            StoreError: `wanted` would change bytes that are already stored; names each field that differs.
        """
        differing = _differences(asdict(self.recipe), asdict(wanted.recipe))
        for name in sorted(self.splits.keys() & wanted.splits.keys()):
            found = self._split_differences(self.splits[name], wanted.splits[name])
            differing |= {f"{name}.{key}": pair for key, pair in found.items()}
        if differing:
            listed = "; ".join(f"{key}: stored {old!r}, asked {new!r}" for key, (old, new) in differing.items())
            raise StoreError(
                f"the store was made differently ({_shortened(listed)}); write to another store, or give --overwrite"
            )
        added = {
            name: _merged_split(self.splits.get(name, replace(info, layers={})), info)
            for name, info in wanted.splits.items()
        }
        return replace(self, layers=self.layers | wanted.layers, splits=self.splits | added)

    def _split_differences(self, stored: SplitInfo, asked: SplitInfo) -> Differences:
        found = _differences(stored.identity(), asked.identity())
        if not self.complete and set(stored.skipped) < set(asked.skipped):
            found = {key: pair for key, pair in found.items() if key not in ("skipped", "n_images")}
        if stored.augmentation and asked.augmentation:
            drawn = _differences(stored.augmentation, asked.augmentation)
            found |= {f"augmentation.{key}": pair for key, pair in drawn.items()}
        return found


def _merged_split(stored: SplitInfo, wanted: SplitInfo) -> SplitInfo:
    """Return `wanted` with the layers and arrays of both, and the views of the one that has more."""
    layers = dict(stored.layers)
    for layer, arrays in wanted.layers.items():
        layers[layer] = sorted({*layers.get(layer, []), *arrays})
    most = max((stored, wanted), key=lambda each: each.views)
    return replace(wanted, layers=layers, views=most.views, augmentation=most.augmentation)


def _differences(stored: Json, asked: Json) -> Differences:
    """Return {dotted field: (stored, asked)} for every leaf that differs as JSON."""
    differing: Differences = {}
    for key in sorted(stored.keys() | asked.keys()):
        old, new = stored.get(key, ABSENT), asked.get(key, ABSENT)
        if isinstance(old, dict) and isinstance(new, dict):
            differing |= {f"{key}.{below}": pair for below, pair in _differences(old, new).items()}
        elif json.dumps(old, default=repr) != json.dumps(new, default=repr):
            differing[key] = (old, new)
    return differing


def _shortened(text: str, limit: int = 600) -> str:
    return text if len(text) <= limit else text[:limit] + "…"
