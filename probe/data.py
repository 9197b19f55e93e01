"""What a fit reads of one store: its splits, checked against one another and against the heads."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import InputError
from ..store import Split, Store
from ..store.layout import EMBEDDING, layer_name
from ..store.reader import open_store
from .config import FitConfig

TEST_SPLITS = ("test", "val", "validation")
FEATURES = ("model", "model_args", "weights", "transform")
"""Fields of a recipe that decide what the tokens of an image are, but for their rounding."""
WHERE = {
    EMBEDDING: "; only the last layer of open_clip backbones has an embedding: give --layers -1 for them, "
    "and another pool, such as mean, for others"
}
"""What to do about an array that a layer lacks, where there is something to say."""


@dataclass(frozen=True)
class Data:
    """The splits of one fit.

    Attributes:
        store: what is trained on.
        train: split to train on.
        val: split to select on; the training split where part of that is held out.
        test: split to report on, of the same store or of another.
    """

    store: Store
    train: Split
    val: Split
    test: Split

    @property
    def splits(self) -> list[Split]:
        """The splits, each once."""
        return list({id(split): split for split in (self.train, self.val, self.test)}.values())

    @property
    def n_classes(self) -> int:
        """Classes of the labels."""
        return len(self.train.classes)

    @property
    def multi_label(self) -> bool:
        """Whether images have any number of labels: (n, C) ones and zeros."""
        return self.train.labels.ndim > 1

    @property
    def views(self) -> int:
        """Views of each training image."""
        return self.train.info.views

    def fingerprints(self) -> dict[str, str]:
        """Return what identifies the data of a fit, whatever its path or format."""
        parts = {"train": (self.train, self.views - 1), "val": (self.val, 0), "test": (self.test, 0)}
        return {name: split.store.manifest.fingerprint(split.name, 0, view) for name, (split, view) in parts.items()}


def open_data(store: Store, config: FitConfig) -> Data:
    """Open the splits that a config names.

    Raises:
        InputError: a split is not there, they do not go together, or one is used twice.
        StoreError: the store of the test split was made differently.
    """
    if config.val_split is not None and config.protocol != "select":
        raise InputError(
            f"val_split {config.val_split!r} asked for under protocol {config.protocol!r}, which selects on test"
        )
    train = store[config.train_split]
    test_store = store if config.test_store is None else open_store(config.test_store)
    test = test_store[_test_split_name(test_store, config)]
    val = train if config.val_split is None else store[config.val_split]
    _check_same_features(store, test_store)
    for other in (val, test):
        if train.classes != other.classes:
            raise InputError(
                f"splits {train.name!r} and {other.name!r} of {str(other.store.path)!r} have different classes "
                f"({len(train.classes)} and {len(other.classes)}): their labels do not mean the same"
            )
    if test_store is store and train.name == test.name:
        raise InputError(f"split {test.name!r} is both trained on and reported on; give another --test-split")
    if config.val_split is not None and val.name in (train.name, test.name if test_store is store else None):
        used = "trained" if val.name == train.name else "reported"
        raise InputError(f"split {val.name!r} is both {used} on and selected on; give another --val-split")
    return Data(store, train, val, test)


def check_arrays(data: Data, layers: Sequence[int], wanted: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Check that every split has the arrays that heads read, all of it written.

    Args:
        data: the splits.
        layers: indices.
        wanted: (label of a head, arrays it reads).

    Raises:
        InputError: an array is not there.
        StoreError: one is not completely written.
    """
    for split in data.splits:
        for layer in layers:
            for label, kinds in wanted:
                missing = [kind for kind in kinds if not split.has(layer, kind)]
                if missing:
                    raise InputError(
                        f"head {label!r} reads {missing[0]!r} tokens, and {split.name}/{layer_name(layer)} of "
                        f"{str(split.store.path)!r} has none{WHERE.get(missing[0], '')}"
                    )
        split.check_complete(layers)


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


def _check_same_features(store: Store, test_store: Store) -> None:
    ours, theirs = (asdict(each.manifest.recipe) for each in (store, test_store))
    differing = [name for name in FEATURES if ours[name] != theirs[name]]
    if differing:
        listed = "; ".join(f"{name}: {ours[name]!r} and {theirs[name]!r}" for name in differing)
        raise InputError(
            f"test_store {str(Path(test_store.path))!r} does not hold the features of {str(store.path)!r} ({listed}); "
            "extract it with the same backbone"
        )
