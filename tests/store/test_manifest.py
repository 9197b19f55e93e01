"""The settings that decide bytes, those that do not, and the ways a store may grow."""

import hashlib
import json
from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from tokenprobe.errors import InputError, StoreError
from tokenprobe.store.checked import UnfitError
from tokenprobe.store.contents import Recipe, SplitInfo
from tokenprobe.store.layout import LayerShape
from tokenprobe.store.manifest import Manifest

RECIPE = Recipe(
    model="timm:vit",
    model_args={"img_size": 224, "norm": {"eps": 1e-6}},
    weights="a" * 64,
    transform={"input_size": [224, 224], "mean": [0.5, 0.5, 0.5]},
    precision="float32",
    dtype="float16",
    row_order={"kind": "shuffled", "seed": 0},
    prefix_names=["cls"],
)
TRAIN = SplitInfo(
    n_images=100,
    block_rows=12,
    source="b" * 32,
    limit=None,
    skipped=[],
    classes=["ant", "bee"],
    layers={"layer_00": ["mean", "patch"], "layer_11": ["mean", "patch", "prefix"]},
    views=2,
    augmentation={"scale": [0.3, 1.0], "seed": 0},
)
SHAPE = LayerShape(grid=(14, 14), dim=768, n_prefix=1)
MANIFEST = Manifest(
    recipe=RECIPE,
    dataset="folder:insects",
    depth=12,
    layers={"layer_00": SHAPE, "layer_11": SHAPE},
    final_norm={"kind": "layer", "eps": 1e-6, "weight": [1.0, 0.1], "bias": [0.0, 1e-9]},
    splits={"train": TRAIN, "test": replace(TRAIN, n_images=9, source="c" * 32, views=1, augmentation=None)},
    versions={"torch": "2.11"},
)
OTHER_RECIPE: dict[str, Any] = {
    "model": "timm:deit",
    "model_args": {"img_size": 224, "norm": {"eps": 1e-5}},
    "weights": "a" * 63 + "b",
    "transform": {"input_size": [224, 224], "mean": [0.5, 0.5, 0.4]},
    "precision": "bfloat16",
    "dtype": "float32",
    "row_order": {"kind": "shuffled", "seed": 1},
    "prefix_names": ["cls", "reg0"],
}
OTHER_SPLIT: dict[str, Any] = {
    "n_images": 99,
    "block_rows": 13,
    "source": "b" * 31 + "c",
    "limit": {"n": 100, "seed": 0},
    "skipped": ["ant/3.png"],
    "classes": ["ant", "wasp"],
}


def test_a_manifest_survives_json() -> None:
    attributes = json.loads(json.dumps(MANIFEST.to_json()))
    assert Manifest.from_json(attributes) == MANIFEST
    assert Manifest.from_json(attributes).to_json() == attributes


def test_the_attributes_list_a_fingerprint_for_each_split_layer_and_view() -> None:
    listed = MANIFEST.to_json()["fingerprints"]
    assert listed == {
        split: {
            name: [MANIFEST.fingerprint(split, layer, view) for view in views]
            for name, layer in (("layer_00", 0), ("layer_11", 11))
        }
        for split, views in (("train", (0, 1)), ("test", (0,)))
    }
    assert len({str(prints) for of_split in listed.values() for both in of_split.values() for prints in both}) == 6


def test_the_cases_below_change_every_field() -> None:
    assert set(OTHER_RECIPE) == {field.name for field in fields(Recipe)}
    assert set(OTHER_SPLIT) == {field.name for field in fields(SplitInfo)} - {"layers", "views", "augmentation"}


@pytest.mark.parametrize("field", OTHER_RECIPE)
def test_the_fingerprint_changes_with_every_field_of_the_recipe(field: str) -> None:
    other = replace(MANIFEST, recipe=replace(RECIPE, **{field: OTHER_RECIPE[field]}))
    assert other.fingerprint("train", 11) != MANIFEST.fingerprint("train", 11)


@pytest.mark.parametrize("field", OTHER_SPLIT)
def test_the_fingerprint_changes_with_every_field_of_its_split_only(field: str) -> None:
    other = with_train(replace(TRAIN, **{field: OTHER_SPLIT[field]}))
    assert other.fingerprint("train", 11) != MANIFEST.fingerprint("train", 11)
    assert other.fingerprint("test", 11) == MANIFEST.fingerprint("test", 11)


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "folder:bugs"},
        {"versions": {"torch": "3.0"}},
        {"complete": True},
        {"splits": {"train": replace(TRAIN, views=3)}},
        {"splits": {"train": replace(TRAIN, views=1, augmentation=None)}},
        {"layers": {"layer_11": SHAPE}},
        {"splits": {"train": replace(TRAIN, layers={"layer_11": ["patch"]})}},
        {"recipe": replace(RECIPE, model_args={"norm": {"eps": 1e-6}, "img_size": 224})},
        {"recipe": replace(RECIPE, transform={"input_size": (224, 224), "mean": (0.5, 0.5, 0.5)})},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_fingerprint_does_not_change_with_what_decides_no_bytes(changes: dict[str, Any]) -> None:
    other = replace(MANIFEST, **changes)
    assert other.fingerprint("train", 11) == MANIFEST.fingerprint("train", 11)


@pytest.mark.parametrize("found", [None, 0, 2, "1"])
def test_another_format_version_is_refused(found: Any) -> None:
    attributes = MANIFEST.to_json() | {"format": found}
    with pytest.raises(StoreError, match=f"store format {found!r} is unknown: this version reads format 1"):
        Manifest.from_json(attributes)


@pytest.mark.parametrize("field", ["weights", "splits", "fingerprints"])
def test_a_manifest_that_lacks_a_field_names_it(field: str) -> None:
    attributes = {key: value for key, value in MANIFEST.to_json().items() if key != field}
    with pytest.raises(StoreError, match=field):
        Manifest.from_json(attributes)


def test_a_fingerprint_is_the_hash_of_json_with_sorted_keys() -> None:
    deciding = {
        "format": 1,
        "recipe": asdict(RECIPE),
        "split": {key: value for key, value in asdict(TRAIN).items() if key not in ("layers", "views", "augmentation")},
        "layer": 11,
        "view": 1,
        "augmentation": TRAIN.augmentation,
    }
    for view in (1, 0):
        deciding["view"] = view
        expected = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
        assert MANIFEST.fingerprint("train", 11, view) == expected
        deciding.pop("augmentation", None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"complete": 1}, "complete is 1; expected true or false"),
        ({"depth": "12"}, "depth is '12'; expected a whole number"),
        ({"depth": 11}, "layer_11 is declared, but the backbone has 11 layers"),
        ({"versions": {"torch": 2}}, "versions.torch is 2; expected text"),
        ({"model": None}, "recipe.model is None; expected text"),
        ({"dtype": "float8"}, "dtype is 'float8'; expected float16"),
        ({"model_args": {"x": float("nan")}}, "recipe.model_args.x is nan; expected a number"),
        ({"splits": {}}, "it declares 0 block files; expected 1 to 10000000"),
        (
            {"layers": {"layer_00": {"grid": [14], "dim": 768, "n_prefix": 1}}},
            "layers.layer_00.grid is a list of 1; exp",
        ),
        ({"layers": {"layer_00": {"grid": [14, 14], "dim": 0, "n_prefix": 1}}}, "layers.layer_00.dim is 0; expected 1"),
        ({"layers": {"../x": {"grid": [14, 14], "dim": 1, "n_prefix": 1}}}, "'../x' is not the name of a layer"),
        ({"layers": {"layer_0": {"grid": [14, 14], "dim": 1, "n_prefix": 1}}}, "'layer_0' is not the name of a layer"),
        (
            {"layers": {"layer_005": {"grid": [14, 14], "dim": 1, "n_prefix": 1}}},
            "'layer_005' is not the name of a layer",
        ),
        ({"layers": {}}, "split 'test': 'layer_00' is not a layer of the store"),
        ({"fingerprints": [1]}, "fingerprints is a list of 1; expected keys and values"),
        ({"fingerprints": {}}, "it was changed by hand: its fingerprints do not match its content"),
        ({"dataset": "other"}, None),  # decides no bytes
    ],
    ids=str,
)
def test_a_manifest_of_other_types_and_ranges_is_refused(changes: dict[str, Any], message: str | None) -> None:
    attributes = MANIFEST.to_json() | changes
    if message is None:
        assert Manifest.from_json(attributes).dataset == "other"
        return
    with pytest.raises(UnfitError) as raised:
        Manifest.from_json(attributes)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_images": 0}, "splits.train.n_images is 0; expected 1 to"),
        ({"n_images": 2**50}, "splits.train.n_images is 1125899906842624; expected 1 to"),
        ({"block_rows": -1}, "splits.train.block_rows is -1"),
        ({"block_rows": 1, "n_images": 2**40}, "it declares "),
        ({"views": 2**30}, "it declares "),
        ({"classes": "ant"}, "splits.train.classes is 'ant'; expected a list"),
        ({"classes": [1]}, "splits.train.classes[0] is 1; expected text"),
        ({"limit": 5}, "splits.train.limit is 5; expected keys and values"),
        ({"limit": {"n": 5}}, "split 'train': limit.seed is missing"),
        ({"limit": {"n": 5, "seed": 0, "after": [0]}}, "split 'train': limit.after[0] is 0; expected 1 to"),
        (
            {"limit": {"n": 5, "seed": 0, "after": [7]}},
            "split 'train': its limits are [7, 5]; expected rising numbers",
        ),
        ({"new": 5}, "splits.train.new is not known here"),
        ({"layers": {"layer_00": ["patch", "patch"]}}, "split 'train': arrays of layer_00 are patch, patch"),
    ],
    ids=str,
)
def test_a_split_of_other_types_and_ranges_is_refused(changes: dict[str, Any], message: str) -> None:
    attributes = MANIFEST.to_json()
    attributes["splits"]["train"] |= changes
    with pytest.raises(UnfitError) as raised:
        Manifest.from_json(attributes)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("name", ["../../esc", "/abs", "a/b", "", "..", "journal.d", "x" * 101, "\x1b[31m"])
def test_a_manifest_with_a_split_that_leads_elsewhere_is_refused(name: str) -> None:
    attributes = replace(MANIFEST, splits={name: TRAIN}).to_json()
    with pytest.raises(UnfitError, match=r"^split name '.* (holds|is|begins with) "):
        Manifest.from_json(attributes)


def test_an_unknown_split_lists_the_known_ones() -> None:
    assert MANIFEST.split("test").n_images == 9
    with pytest.raises(InputError, match=r"^unknown split 'tain'; known: train, test$"):
        MANIFEST.split("tain")


def test_blocks_are_counted_with_the_partial_one() -> None:
    assert [replace(TRAIN, n_images=n).n_blocks for n in (1, 12, 13, 100)] == [1, 1, 2, 9]


def test_merging_adds_layers_arrays_and_splits_and_keeps_the_rest_as_stored() -> None:
    stored = replace(with_train(replace(TRAIN, layers={"layer_00": ["patch"]})), layers={"layer_00": SHAPE})
    before = asdict(stored)
    wanted = replace(
        MANIFEST,
        dataset="folder:/elsewhere/insects",
        versions={"torch": "3.0"},
        layers={"layer_00": SHAPE, "layer_05": SHAPE},
        splits={
            "train": replace(TRAIN, layers={"layer_00": ["mean"], "layer_05": ["patch", "mean"]}),
            "val": replace(TRAIN, layers={"layer_05": ["mean"]}),
        },
    )
    merged = stored.merged(wanted)
    assert {name: info.layers for name, info in merged.splits.items()} == {
        "train": {"layer_00": ["mean", "patch"], "layer_05": ["mean", "patch"]},
        "test": TRAIN.layers,
        "val": {"layer_05": ["mean"]},
    }
    assert set(merged.layers) == {"layer_00", "layer_05"}
    assert (merged.dataset, merged.versions) == (MANIFEST.dataset, MANIFEST.versions)
    assert merged.fingerprint("train", 0) == stored.fingerprint("train", 0)
    assert asdict(stored) == before


def test_merging_the_same_again_changes_nothing() -> None:
    assert MANIFEST.merged(MANIFEST) == MANIFEST
    assert Manifest.from_json(MANIFEST.to_json()).merged(MANIFEST) == MANIFEST


def test_how_views_are_drawn_decides_the_bytes_of_all_but_the_first() -> None:
    other = with_train(replace(TRAIN, augmentation={"scale": [0.3, 1.0], "seed": 1}))
    assert other.fingerprint("train", 0, 0) == MANIFEST.fingerprint("train", 0, 0)
    assert other.fingerprint("train", 0, 1) != MANIFEST.fingerprint("train", 0, 1)


def test_merging_more_views_adds_them_to_their_split() -> None:
    stored = with_train(replace(TRAIN, views=1, augmentation=None))
    for merged in (stored.merged(MANIFEST), MANIFEST.merged(stored)):
        assert merged.splits == MANIFEST.splits
    more = with_train(replace(TRAIN, views=5))
    assert {name: info.views for name, info in MANIFEST.merged(more).splits.items()} == {"train": 5, "test": 1}


def test_merging_views_that_are_drawn_differently_names_how() -> None:
    wanted = with_train(replace(TRAIN, views=3, augmentation={"scale": [0.3, 1.0], "seed": 1}))
    with pytest.raises(StoreError, match=r"made differently \(train\.augmentation\.seed: stored 0, asked 1\); write"):
        MANIFEST.merged(wanted)


@pytest.mark.parametrize(
    ("recipe", "split", "named"),
    [
        ({"weights": "b" * 64}, {}, f"weights: stored '{'a' * 64}', asked '{'b' * 64}'"),
        ({"model_args": {"img_size": 448, "norm": {"eps": 1e-6}}}, {}, "model_args.img_size: stored 224, asked 448"),
        ({"model_args": {"img_size": 224}}, {}, "model_args.norm: stored {'eps': 1e-06}, asked nothing"),
        ({"model_args": OTHER_RECIPE["model_args"]}, {}, "model_args.norm.eps: stored 1e-06, asked 1e-05"),
        ({"row_order": {"kind": "shuffled", "seed": 7}}, {}, "row_order.seed: stored 0, asked 7"),
        ({}, {"block_rows": 64}, "train.block_rows: stored 12, asked 64"),
        ({}, {"limit": {"n": 10, "seed": 0}}, "train.limit: stored None, asked {'n': 10, 'seed': 0}"),
        (
            {"dtype": "float32"},
            {"n_images": 101},
            "dtype: stored 'float16', asked 'float32'; train.n_images: stored 100, asked 101",
        ),
    ],
)
def test_merging_what_would_change_bytes_names_exactly_what_differs(
    recipe: dict[str, Any], split: dict[str, Any], named: str
) -> None:
    wanted = replace(with_train(replace(TRAIN, **split)), recipe=replace(RECIPE, **recipe))
    with pytest.raises(StoreError) as raised:
        MANIFEST.merged(wanted)
    assert str(raised.value) == (
        f"the store was made differently ({named}); write to another store, or give --overwrite"
    )


def test_images_that_are_no_longer_left_out_are_asked_for_by_their_option() -> None:
    stored = with_train(replace(TRAIN, skipped=["a"], n_images=99))
    advice = r"train\.skipped: stored \['a'\], asked \[\]\); give --skip-bad-images, as before"
    with pytest.raises(StoreError, match=advice):
        stored.merged(MANIFEST)
    with pytest.raises(StoreError, match=r"dtype: .*; write to another store"):
        stored.merged(replace(MANIFEST, recipe=replace(RECIPE, dtype="float32")))


@pytest.mark.parametrize(
    ("stored", "asked"), [({}, {"img_size": None}), ({"img_size": None}, {}), ({"bias": True}, {"bias": 1})]
)
def test_whatever_changes_the_fingerprint_is_refused_however_alike(
    stored: dict[str, Any], asked: dict[str, Any]
) -> None:
    one = replace(MANIFEST, recipe=replace(RECIPE, model_args=stored))
    other = replace(MANIFEST, recipe=replace(RECIPE, model_args=asked))
    assert one.fingerprint("train", 0) != other.fingerprint("train", 0)
    with pytest.raises(StoreError, match=r"model_args\.(img_size|bias): stored"):
        one.merged(other)


def test_a_long_difference_is_cut_short_but_says_what_to_do() -> None:
    wanted = with_train(replace(TRAIN, skipped=[f"ant/{i}.png" for i in range(1000)]))
    with pytest.raises(StoreError, match=r"train\.skipped: stored \[\], asked \['ant/0\.png'.*…\); write to") as raised:
        replace(MANIFEST, complete=True).merged(wanted)
    assert len(str(raised.value)) < 800


def with_train(info: SplitInfo) -> Manifest:
    return replace(MANIFEST, splits=MANIFEST.splits | {"train": info})
