"""The manifest: a store's contents, their source, and the settings that made them. It is the root group's attributes.

Identical extractions give identical manifests: a manifest has no times, hosts or absolute paths.
A store grows only through `Manifest.merged`.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from ..errors import InputError, StoreError, unknown_name
from .checked import UnfitError, Width, read
from .contents import Json, Recipe, SplitInfo
from .layout import FORMAT_VERSION, LayerShape, check_split_name, layer_index, layer_name

MOST_FILES = 10**7
"""Most block files in a store. ImageNet-21k takes 1.3 million with a ViT-B/16."""
Fingerprints = dict[str, dict[str, list[str]]]
"""For each split and layer, one fingerprint per view."""
Differences = dict[str, tuple[Any, Any]]
"""(stored, asked) by dotted field."""


class _Absent:
    """Stands for a field that one side lacks."""

    def __repr__(self) -> str:
        return "nothing"


ABSENT = _Absent()


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
        complete: whether every declared block has been written.
    """

    recipe: Recipe
    dataset: str
    depth: Width
    layers: dict[str, LayerShape]
    final_norm: Json | None
    splits: dict[str, SplitInfo]
    versions: dict[str, str]
    complete: bool = False
    format: int = field(default=FORMAT_VERSION)

    def fingerprint(self, split: str, layer: int, view: int = 0) -> str:
        """Return the hash of everything that decides the bytes of one (split, layer, view).

        The hash is over JSON with sorted keys. The texts of recipe and split, the largest parts, are made only once.
        """
        info = self.splits[split]
        drawn = f'"augmentation": {json.dumps(info.augmentation, sort_keys=True)}, ' if view else ""
        deciding = (
            f'{{{drawn}"format": {self.format}, "layer": {layer}, "recipe": {self.recipe.text}, '
            f'"split": {info.text}, "view": {view}}}'
        )
        return hashlib.sha256(deciding.encode()).hexdigest()

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """Every fingerprint, by split and layer, one per view."""
        return {
            split: {
                name: [self.fingerprint(split, layer_index(name), view) for view in range(info.views)]
                for name in info.layers
            }
            for split, info in self.splits.items()
        }

    def to_json(self) -> Json:
        """Return the root attributes: plain JSON values, fingerprints included."""
        attributes = asdict(self)
        attributes |= attributes.pop("recipe")
        attributes["fingerprints"] = self.fingerprints
        return json.loads(json.dumps(attributes, sort_keys=True))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, attributes: Json) -> "Manifest":
        """Read root attributes back, and check them. Every format comes through here.

        Raises:
            StoreError: the manifest has another version of the format.
            UnfitError: it is damaged; the message names the part.
        """
        found = attributes.get("format")
        if found != FORMAT_VERSION:
            shown = repr(found)[:20]
            raise StoreError(f"store format {shown} is unknown: this version reads format {FORMAT_VERSION}")
        own, recipe = (set(kind.__dataclass_fields__) for kind in (cls, Recipe))
        parts = {name: value for name, value in attributes.items() if name in own - {"recipe"}}
        parts["recipe"] = {name: value for name, value in attributes.items() if name in recipe}
        manifest: Manifest = read(cls, parts, "")
        fingerprints = read(Fingerprints, attributes.get("fingerprints"), "fingerprints")
        manifest.check()
        if fingerprints != manifest.fingerprints:
            raise UnfitError("it was changed by hand: its fingerprints do not match its content")
        return manifest

    def check(self) -> None:
        """Refuse a manifest that cannot belong to a store, though every value has its type.

        Raises:
            UnfitError: a bad or unknown name, a layer that the backbone lacks, no files, or more than `MOST_FILES`; the
                message names the part.
        """
        self.recipe.check()
        for name in self.layers:
            if not re.fullmatch(r"layer_\d{2,8}", name) or name != layer_name(layer_index(name)):
                raise UnfitError(f"{name[:20]!r} is not the name of a layer")
            if layer_index(name) >= self.depth:
                raise UnfitError(f"{name} is declared, but the backbone has {self.depth} layers")
        for split, info in self.splits.items():
            try:
                check_split_name(split)
                info.check(self.layers, self.recipe.dtype)
            except InputError as error:
                raise UnfitError(str(error)) from error
            except UnfitError as error:
                raise UnfitError(f"split {split!r}: {error}") from error
        n_files = sum(i.n_blocks * i.views * sum(map(len, i.layers.values())) for i in self.splits.values())
        if not 0 < n_files <= MOST_FILES:
            raise UnfitError(f"it declares {n_files} block files; expected 1 to {MOST_FILES}")

    def holds(self, earlier: "Manifest") -> bool:
        """Whether this manifest declares everything that an earlier one declares, with the same bytes."""
        here = self.fingerprints
        return all(
            here.get(split, {}).get(name, [])[: len(views)] == views
            for split, layers in earlier.fingerprints.items()
            for name, views in layers.items()
        )

    def split(self, name: str) -> SplitInfo:
        """Return one split, or raise an InputError that names the splits."""
        if name not in self.splits:
            raise unknown_name("split", name, self.splits)
        return self.splits[name]

    def shape(self, layer: int) -> LayerShape:
        """Return the shape of one stored layer."""
        return self.layers[layer_name(layer)]

    def merged(self, wanted: "Manifest") -> "Manifest":
        """Return this manifest extended by the splits, layers, arrays and views that `wanted` adds.

        A split may grow to a larger limit. While a store is incomplete, or grows, `wanted` may leave more images out of
        a split. `moved_rows.py` finds the files that depend on either.

        Raises:
            StoreError: `wanted` would change bytes that are already stored; the message names each differing field.
        """
        differing = _differences(asdict(self.recipe), asdict(wanted.recipe))
        for name in sorted(self.splits.keys() & wanted.splits.keys()):
            found = self._split_differences(self.splits[name], wanted.splits[name])
            differing |= {f"{name}.{key}": pair for key, pair in found.items()}
        if differing:
            listed = "; ".join(f"{key}: stored {old!r}, asked {new!r}" for key, (old, new) in differing.items())
            advice = "write to another store, or give --overwrite"
            fields = {key.rpartition(".")[2] for key in differing}
            if "skipped" in fields <= {"skipped", "n_images"} and not any(
                info.skipped for info in wanted.splits.values()
            ):
                advice = "give --skip-bad-images, as before, or --overwrite if all images are whole now"
            raise StoreError(f"the store was made differently ({_shortened(listed)}); {advice}")
        added = {
            name: _merged_split(self.splits.get(name, replace(info, layers={})), info)
            for name, info in wanted.splits.items()
        }
        return replace(self, layers=self.layers | wanted.layers, splits=self.splits | added)

    def _split_differences(self, stored: SplitInfo, asked: SplitInfo) -> Differences:
        found = _differences(stored.identity, asked.identity)
        grows = stored.grown_to(asked)
        if grows:
            found = {key: pair for key, pair in found.items() if key.partition(".")[0] not in ("limit", "n_images")}
        if (grows or not self.complete) and set(stored.skipped) < set(asked.skipped):
            found = {key: pair for key, pair in found.items() if key not in ("skipped", "n_images")}
        if stored.augmentation and asked.augmentation:
            drawn = _differences(stored.augmentation, asked.augmentation)
            found |= {f"augmentation.{key}": pair for key, pair in drawn.items()}
        return found


def _merged_split(stored: SplitInfo, wanted: SplitInfo) -> SplitInfo:
    """Return `wanted` with the layers and arrays of both, and the larger number of views."""
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
