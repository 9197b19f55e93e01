"""The splits that a fit reads from one store, checked against one another and against the heads."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import prod

import torch

from ...errors import InputError
from ...runtime.text import counted
from ...store import Split, Store
from ...store.layout import EMBEDDING, PATCH, layer_name
from ...store.local_cache import open_cached
from ..config import FitConfig
from .layer_set import LayerSet, parse_layer_sets
from .norm import Json, is_derived, kept_norm
from .token_shape import TokenShape, stored_kind, stored_kinds

logger = logging.getLogger(__name__)

TRAIN, SUBSETS, VAL, TEST = "train", "subsets", "val", "test"
"""Row sets: full training data, all low-shot subsets, rows to select on, and rows to report on."""
TEST_SPLITS = ("test", "val", "validation")
FEATURES = ("model", "model_args", "weights", "transform")
"""Fields of a recipe that determine the tokens of an image, apart from rounding."""
WHERE = {
    EMBEDDING: "; only the last layer of open_clip backbones has an embedding: give --layers -1 for them, "
    "and another pool, such as mean, for others"
}
"""Advice for an array that a layer lacks, if there is any."""


@dataclass(frozen=True)
class Data:
    """The splits of one fit.

    Attributes:
        store: the store to train on.
        train: split to train on.
        val: split to select on; the training split if part of it is held out.
        test: split to report on, from the same store or another.
        norm: the final norm applied to every token first, as the manifest keeps it, or None.
    """

    store: Store
    train: Split
    val: Split
    test: Split
    norm: Json | None

    @property
    def splits(self) -> list[Split]:
        """The splits, each once."""
        return list({id(split): split for split in (self.train, self.val, self.test)}.values())

    def check_unchanged(self) -> None:
        """Raise StoreError if a store of these splits was replaced, moved or removed after it was opened."""
        for store in {id(split.store): split.store for split in self.splits}.values():
            store.check_unchanged()

    @property
    def n_classes(self) -> int:
        """Classes of the labels."""
        return len(self.train.classes)

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels: (n, C) ones and zeros."""
        return self.train.labels.ndim > 1

    @property
    def views(self) -> int:
        """Views of each training image."""
        return self.train.info.views

    @property
    def holds_out(self) -> bool:
        """Whether the images to select on are held out from the training split."""
        return self.val is self.train

    @property
    def token_dtype(self) -> torch.dtype:
        """Type of the tokens in a batch."""
        if self.norm is not None:
            return torch.float32
        return torch.bfloat16 if self.train.is_bfloat16() else getattr(torch, self.train.dtype().name)

    def split_of(self, row_set: str) -> Split:
        """Return the split that contains a row set."""
        return {VAL: self.val, TEST: self.test}.get(row_set, self.train)

    def shape(self, layers: LayerSet) -> TokenShape:
        """Return the shape of the tokens of some layers. If grids of joined layers differ, heads read only vectors."""
        shapes = [self.train.shape(layer) for layer in layers]
        first, embedding = shapes[0], sum(shape.embedding for shape in shapes)
        dim = first.dim if layers.stacked else sum(shape.dim for shape in shapes)
        return TokenShape(first.grid, dim, first.n_prefix, embedding, layers.n_stacked)

    def row_bytes(self, layers: LayerSet, kinds: Iterable[str], row_set: str) -> int:
        """Return the bytes of stored arrays for one row of a row set, over all layers and all its views."""
        shapes = [self.train.shape(layer) for layer in layers]
        of_view = sum(
            prod(shape.row_shape(kind)) * self.train.dtype(kind).itemsize for kind in kinds for shape in shapes
        )
        return of_view * self.split_of(row_set).info.views

    def placed(self, layers: LayerSet, kinds: Sequence[str]) -> list[str]:
        """Return the stored arrays that are kept in memory only if there is room.

        These are patch tokens, and all arrays of stacked layers. Other arrays are small and always kept, and
        so are means of normed tokens, which the store does not have.
        """
        large = stored_kinds(kinds) if layers.n_stacked > 1 else [PATCH]
        return [kind for kind in large if not is_derived(kind, normed=self.norm is not None)]

    def fingerprints(self) -> dict[str, str]:
        """Return fingerprints of the data of a fit, independent of path and format."""
        parts = {"train": (self.train, self.views - 1), "val": (self.val, 0), "test": (self.test, 0)}
        return {name: split.store.manifest.fingerprint(split.name, 0, view) for name, (split, view) in parts.items()}


def open_data(store: Store, config: FitConfig) -> Data:
    """Open the splits that a config names.

    Raises:
        InputError: a split is missing, splits do not fit together, or an image is used twice.
        StoreError: the store of the test split was made differently.
    """
    if config.val_split is not None and config.protocol != "select":
        raise InputError(
            f"val_split {config.val_split!r} has no use under protocol {config.protocol!r}, which selects on the test "
            "split; leave one of the two out"
        )
    train = store[config.train_split]
    test_store = store if config.test_store is None else open_cached(config.test_store, config.local_cache)
    test = test_store[_test_split_name(test_store, config)]
    val = train if config.val_split is None else store[config.val_split]
    _check_same_features(store, test_store)
    for other in (val, test):
        if train.classes != other.classes:
            raise InputError(
                f"splits {train.name!r} and {other.name!r} of {str(other.store.path)!r} have different classes "
                f"({len(train.classes)} and {len(other.classes)}): their labels cannot be compared"
            )
    for split in (train, val, test):
        _check_labels(split)
    _check_apart(train, test, "trained on and reported on", "--test-split")
    if config.val_split is not None:
        _check_apart(train, val, "trained on and selected on", "--val-split")
        _check_apart(test, val, "reported on and selected on", "--val-split")
    seen = _finished_views(train, config)
    val = seen if val is train else val.with_views(1)  # only the training split is read in several views
    return Data(store, seen, val, test.with_views(1), kept_norm(store) if config.norm == "final" else None)


def _finished_views(train: Split, config: FitConfig) -> Split:
    """Return the training split with the views that all wanted layers have."""
    sets = parse_layer_sets(config.layers, train.layers, train.store.manifest.depth)
    layers = sorted({index for each in sets for index in each.indices})
    seen, n_stored = train.with_views(train.n_finished_views(layers)), train.info.views
    if seen.info.views < n_stored:
        logger.warning(
            f"trains on {seen.info.views} of {n_stored} views of {train.name!r}: layers {config.layers} of "
            f"{str(train.store.path)!r} lack the others; probe extract --views {n_stored} with these layers adds them"
        )
    return seen


def check_arrays(data: Data, layers: LayerSet, wanted: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Check that every split has the arrays that heads read, completely written.

    Args:
        data: the splits.
        layers: the layers that they read.
        wanted: (label of a head, arrays it reads).

    Raises:
        InputError: an array is missing.
        StoreError: one is not completely written.
    """
    for split in data.splits:
        for layer in layers:
            for label, kinds in wanted:
                missing = [kind for kind in map(stored_kind, kinds) if not split.has(layer, kind)]
                if missing:
                    raise InputError(
                        f"head {label!r} reads {missing[0]!r} tokens, but {split.name}/{layer_name(layer)} of "
                        f"{str(split.store.path)!r} has none{WHERE.get(missing[0], '')}"
                    )
        split.check_complete(layers.indices)


def _test_split_name(store: Store, config: FitConfig) -> str:
    if config.test_split is not None:
        return config.test_split
    taken = (config.val_split,) if config.test_store else (config.train_split, config.val_split)
    names = [name for name in TEST_SPLITS if name in store.splits and name not in taken]
    if not names:
        beside = repr(config.train_split) + ("" if config.val_split is None else f" and {config.val_split!r}")
        if set(store.splits).difference(taken):
            advice = "name the one to report on with --test-split"
        else:
            advice = "extract one, from data of a single split with --split-fraction, or give --test-store"
        raise InputError(
            f"{str(store.path)!r} has no split named {', '.join(TEST_SPLITS)} beside {beside} "
            f"(it has {', '.join(store.splits)}); {advice}"
        )
    return names[0]


def _check_apart(one: Split, other: Split, used: str, flag: str) -> None:
    """Refuse two splits that share images. Copies of a store, and parts of one list of images, share them too.

    Args:
        one: the first split.
        other: the split to replace.
        used: how a shared image would be used, in words.
        flag: names the split to replace.
    """
    if one.store is other.store and one.name == other.name:
        raise InputError(f"split {one.name!r} is both {used}; give another {flag}")
    if one.info.source != other.info.source:
        return  # ids of other lists of images may be equal by chance, such as positions in a file
    n_common = len(set(one.ids) & set(other.ids))
    if n_common:
        raise InputError(
            f"{counted(n_common, 'image')} of split {other.name!r} of {str(other.store.path)!r} would be both {used}: "
            f"split {one.name!r} of {str(one.store.path)!r} has the same; give another {flag}"
        )


def _check_labels(split: Split) -> None:
    if split.labels.ndim > 1 and not split.labels.any():
        raise InputError(
            f"no image of split {split.name!r} of {str(split.store.path)!r} shows a class, so it has no precision; "
            "give another"
        )


def _check_same_features(store: Store, test_store: Store) -> None:
    ours, theirs = (asdict(each.manifest.recipe) for each in (store, test_store))
    for recipe in (ours, theirs):
        recipe["transform"].pop("upright", None)  # belongs to the data: each source's loader rotates photos its own way
    differing = [name for name in FEATURES if ours[name] != theirs[name]]
    if differing:
        listed = "; ".join(f"{name}: {ours[name]!r} and {theirs[name]!r}" for name in differing)
        raise InputError(
            f"test_store {str(test_store.path)!r} does not hold the features of {str(store.path)!r} ({listed}); "
            "extract it with the same backbone"
        )
