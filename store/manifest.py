"""What a store holds, from what and with what: the attributes of its root group.

A manifest is a function of the inputs of the extraction alone: no times, hosts or absolute paths, so
that the same extraction gives the same bytes. `Manifest.merged` is the only way a store grows.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from typing import Any

from ..errors import StoreError, unknown_name
from .layout import FORMAT_VERSION, LayerShape, layer_index, layer_name

Json = dict[str, Any]


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
        precision: what the backbone computed in, such as "float32" or "bfloat16".
        dtype: what patch and prefix tokens are stored as.
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
        recipe: what decides the bytes of all splits.
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
        what = {
            "format": self.format,
            "recipe": asdict(self.recipe),
            "split": self.splits[split].identity(),
            "layer": layer,
            "view": view,
        }
        if view:
            what["augmentation"] = self.splits[split].augmentation
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

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

    def split(self, name: str) -> SplitInfo:
        """Return one split, or raise InputError naming those there are."""
        if name not in self.splits:
            raise unknown_name("split", name, self.splits)
        return self.splits[name]

    def shape(self, layer: int) -> LayerShape:
        """Return the shape of one stored layer."""
        return self.layers[layer_name(layer)]

    def merged(self, wanted: "Manifest") -> "Manifest":
        """Return this manifest extended by what `wanted` adds.

        While a store is incomplete, more images may be left out of a split: the writer keeps the blocks before
        the first of them.

        Raises:
            StoreError: `wanted` would change bytes that are already stored; names each field that differs.
        """
        differing = _differences(asdict(self.recipe), asdict(wanted.recipe))
        for name in self.splits.keys() & wanted.splits.keys():
            found = _differences(self.splits[name].identity(), wanted.splits[name].identity())
            if not self.complete and set(self.splits[name].skipped) < set(wanted.splits[name].skipped):
                found = {key: pair for key, pair in found.items() if key not in ("skipped", "n_images")}
            stored, asked = (info.splits[name].augmentation for info in (self, wanted))
            if stored and asked:
                found |= {f"augmentation.{key}": pair for key, pair in _differences(stored, asked).items()}
            differing |= {f"{name}.{key}": values for key, values in found.items()}
        if differing:
            listed = "; ".join(f"{key}: stored {old!r}, asked {new!r}" for key, (old, new) in differing.items())
            raise StoreError(
                f"the store was made differently ({_shortened(listed)}); write to another store, or give --overwrite"
            )
        splits = dict(self.splits)
        for name, info in wanted.splits.items():
            layers = dict(splits[name].layers) if name in splits else {}
            for layer, arrays in info.layers.items():
                layers[layer] = sorted({*layers.get(layer, []), *arrays})
            most = max((splits.get(name, info), info), key=lambda each: each.views)
            splits[name] = replace(info, layers=layers, views=most.views, augmentation=most.augmentation)
        return replace(self, layers=self.layers | wanted.layers, splits=splits)


def _differences(stored: Json, asked: Json) -> dict[str, tuple[Any, Any]]:
    """Return {dotted field: (stored, asked)} for every leaf that differs as JSON."""
    differing: dict[str, tuple[Any, Any]] = {}
    for key in sorted(stored.keys() | asked.keys()):
        old, new = stored.get(key, ABSENT), asked.get(key, ABSENT)
        if isinstance(old, dict) and isinstance(new, dict):
            differing |= {f"{key}.{below}": pair for below, pair in _differences(old, new).items()}
        elif json.dumps(old, default=repr) != json.dumps(new, default=repr):
            differing[key] = (old, new)
    return differing


def _shortened(text: str, limit: int = 600) -> str:
    return text if len(text) <= limit else text[:limit] + "…"
